use etcdtest::Prepared;

#[etcdtest::prepare(once)]
fn arguments() -> u8 {
    1
}

#[etcdtest::prepare]
struct NoFunction;

#[etcdtest::prepare]
async fn awaits() -> u8 {
    1
}

#[etcdtest::prepare]
fn takes(region: String) -> usize {
    region.len()
}

#[etcdtest::prepare]
fn generic<T: Default>() -> T {
    T::default()
}

#[etcdtest::prepare]
unsafe fn dangerous() -> u8 {
    1
}

#[etcdtest::prepare]
fn nothing() {}

#[etcdtest::prepare]
fn one_threads_own() -> std::rc::Rc<u8> {
    1.into()
}

#[etcdtest::prepare]
fn no_words() -> Result<u8, NotDebug> {
    Err(NotDebug)
}

struct NotDebug;

#[etcdtest::test]
fn owned(_prepared: Prepared<u8>) {}

fn main() {}
