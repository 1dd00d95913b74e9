//! Skipping at run time.

/// What the thread of a skipped test unwinds with.
pub(crate) struct Skip(pub(crate) String);

/// Ends the test as skipped; the reason is formatted like the text of [`format!`].
///
/// It works at any depth below the test, in the test's own thread. In another thread it
/// ends that thread, and the test sees it as a panic when it joins.
///
/// ```
/// # fn broker() -> Option<String> { Some(String::new()) }
/// # fn messages_arrive() {
/// let Some(broker) = broker() else { etcdtest::skip!("no message broker here") };
/// # }
/// ```
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        $crate::private::skip(::std::format!($($reason)+))
    };
}

/// Unwinds without the panic hook, which would print a panic message.
#[doc(hidden)]
pub fn skip(reason: String) -> ! {
    std::panic::resume_unwind(Box::new(Skip(reason)))
}
