struct Shop {
    url: String,
}

#[derive(serde::Deserialize)]
struct Orders {
    url: String,
}

#[etcdtest::test]
fn borrowed_text(url: &str) {
    let _ = url;
}

#[etcdtest::test]
fn no_name(_: Orders) {}

#[etcdtest::test]
fn pattern(Orders { url }: Orders) {
    let _ = url;
}

#[etcdtest::test]
fn any_type(shop: impl Default) {
    let _ = shop;
}

#[etcdtest::test]
fn not_readable(shop: Shop) {
    let _ = shop.url;
}

#[etcdtest::test]
fn borrowed(orders: &Orders) {
    let _ = orders;
}

fn main() {}
