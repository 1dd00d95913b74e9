//! Who does something, as records name them.

/// The user and the machine, `user@host`.
pub fn author() -> String {
    format!("{}@{}", user(), host())
}

/// The name of this machine; `localhost` where it has none.
pub fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".into() } else { name }
}

/// The name of the user, or the number where there is no name.
fn user() -> String {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|variable| std::env::var(variable).ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_author_is_a_user_at_a_host() {
        let author = super::author();
        let (user, host) = author.split_once('@').unwrap();
        assert!(!user.is_empty() && !host.is_empty(), "{author}");
    }
}
