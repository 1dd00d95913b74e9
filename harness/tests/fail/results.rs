struct NoDebug;

#[etcdtest::test]
fn number() -> u8 {
    0
}

#[etcdtest::test]
fn value() -> Result<u8, String> {
    Ok(0)
}

#[etcdtest::test]
fn unprintable() -> Result<(), NoDebug> {
    Ok(())
}

#[etcdtest::test]
async fn asynchronous() -> Option<()> {
    None
}

fn main() {}
