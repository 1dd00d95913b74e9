//! Made-up tests for the tests of this room.

use std::sync::Arc;

use super::binary::{Binary, BinaryKind};
use super::test_list::{ListedTest, TestList};
use crate::model::{Code, Description, Labels, TestCaseId, TestKind};

/// A binary of the package `shop`.
pub(crate) fn binary(target: &str, kind: BinaryKind) -> Arc<Binary> {
    Arc::new(Binary {
        package: "shop".into(),
        name: kind.binary_name(target),
        target: target.into(),
        kind,
        path: "/x".into(),
        directory: "/".into(),
        variables: Vec::new(),
    })
}

/// A test about which nothing is said.
pub(crate) fn test(binary: &Arc<Binary>, name: &str) -> ListedTest {
    ListedTest {
        id: TestCaseId::new(&binary.package, &binary.name, name),
        code: Code {
            kind: TestKind::Annotated,
            description: Description::default(),
            timeout: None,
            retries: None,
            environments: Vec::new(),
            exclusive: None,
            needs: Labels::default(),
            ignore: None,
            file: None,
            line: None,
        }
        .into(),
        typed: false,
        binary: Arc::clone(binary),
    }
}

/// The list of these binaries of `shop`, all that its manifest has.
pub(super) fn list(binaries: &[(&str, &[&str])]) -> TestList {
    let mut list = TestList::default();
    for (target, names) in binaries {
        let binary = binary(target, BinaryKind::Test);
        list.tests.extend(names.iter().map(|name| test(&binary, name)));
        list.targets.entry("shop".into()).or_default().insert(binary.name.clone());
        list.binaries.push(binary);
    }
    list.tests.sort_by(|a, b| a.id.cmp(&b.id));
    list
}
