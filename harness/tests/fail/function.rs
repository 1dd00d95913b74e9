#[etcdtest::test]
struct NoFunction;

#[etcdtest::test]
fn generic<T: Default>() {
    T::default();
}

#[etcdtest::test]
fn lifetime<'a>(_context: &'a etcdtest::Context) {}

#[etcdtest::test]
const fn constant() {}

#[etcdtest::test]
extern "C" fn foreign() {}

#[etcdtest::test]
unsafe fn dangerous() {}

#[etcdtest::test]
#[test]
fn also_a_plain_test() {}

struct Shop;

impl Shop {
    #[etcdtest::test]
    fn method(&self) {}
}

fn main() {}
