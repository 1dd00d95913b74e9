//! Where the journals of a project are.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::EXTENSION;
use super::header::{Header, StoreName};
use super::left_behind::{LeftBehind, Unreadable};
use super::writer::{Journal, JournalError};
use crate::execution::Membership;
use crate::store::{Store, StoreOptions};

/// The journals of a project, kept for a store that is elsewhere.
#[derive(Clone, Debug)]
pub struct JournalFolder {
    /// The project's folder for what is its own.
    own: PathBuf,
    store: StoreName,
}

impl JournalFolder {
    /// That of a project and a store; `None` for a local store, which needs none.
    pub fn of(options: &StoreOptions, store: &dyn Store) -> Option<Self> {
        let elsewhere = !options.etcd.endpoints.is_empty();
        let name = || StoreName::new(&options.etcd, store.cluster_id());
        elsewhere.then(|| Self { own: options.local.clone(), store: name() })
    }

    /// The store.
    pub fn store(&self) -> &StoreName {
        &self.store
    }

    /// Begins the journal of a worker.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(&self, membership: &Membership) -> Result<Journal, JournalError> {
        let locks = membership.locks().iter().map(|(key, created)| (key.to_string(), created.0)).collect();
        let header = Header {
            store: self.store.clone(),
            run: membership.id().clone(),
            worker: membership.worker().id.clone(),
            identity: membership.identity().0,
            locks,
            project: self.own.parent().unwrap_or(&self.own).display().to_string(),
        };
        Journal::begin(&self.own, &self.path(), &header)
    }

    /// The journals of workers that are no more, whichever store they are for, each with what its
    /// store may lack. One that lacks nothing goes.
    pub fn left_behind(&self) -> Vec<Result<LeftBehind, Unreadable>> {
        let path = self.path();
        let mut files: Vec<PathBuf> = match fs::read_dir(&path) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return vec![Err(Unreadable::new(&path, &error))],
        };
        files.retain(|file| file.to_string_lossy().ends_with(EXTENSION));
        files.sort();
        files.iter().filter_map(|file| LeftBehind::open(file).transpose()).collect()
    }

    /// What to say where runs left results of this store behind.
    pub fn reminder(&self) -> Option<String> {
        let left = self.left_behind().into_iter().flatten();
        let left: Vec<_> = left.filter(|left| left.header().store.is(&self.store)).collect();
        let results = match left.iter().map(LeftBehind::count).sum() {
            0 => return None,
            1 => "1 result".to_owned(),
            results => format!("{results} results"),
        };
        let runs: BTreeSet<_> = left.iter().map(|left| left.header().run.as_str()).collect();
        let runs = Vec::from_iter(runs).join(", ");
        Some(format!(
            "{results} of {runs} could not be stored: `cargo etcdtest store sync` sends what is left"
        ))
    }

    fn path(&self) -> PathBuf {
        self.own.join("journal")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::execution::executed::Executed;
    use crate::execution::journal::Kept;
    use crate::model::{Fence, Outcome, RunId, UnitIndex, UnitResult, WorkerId};

    /// A project's folder, and how its journals are found.
    struct Project {
        folder: tempfile::TempDir,
        journals: JournalFolder,
    }

    impl Project {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let endpoints = vec!["https://a:1".to_owned()];
            let store = StoreName { endpoints, namespace: "/team".into(), cluster: Some(7) };
            let journals = JournalFolder { own: folder.path().join(".etcdtest"), store };
            Self { folder, journals }
        }

        fn header(&self) -> Header {
            Header {
                store: self.journals.store.clone(),
                run: RunId::new("nightly/1"),
                worker: WorkerId::new("desk-1"),
                identity: 12,
                locks: vec![("/locks/environments/staging/nightly".into(), 11)],
                project: "shop".into(),
            }
        }

        fn begin(&self) -> Journal {
            Journal::begin(&self.journals.own, &self.journals.path(), &self.header()).unwrap()
        }

        fn files(&self) -> Vec<PathBuf> {
            fs::read_dir(self.journals.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
        }

        fn left(&self) -> Vec<LeftBehind> {
            self.journals.left_behind().into_iter().map(Result::unwrap).collect()
        }
    }

    fn executed(unit: u32) -> Executed {
        let worker = WorkerId::new("desk-1");
        let result = UnitResult {
            unit: UnitIndex(unit),
            outcome: Outcome::Skipped,
            reason: Some("not today".into()),
            attempts: vec![],
            worker,
            token: Fence(5),
        };
        let output =
            (0..unit).map(|chunk| (format!("/logs/{unit}/{chunk}").into(), vec![b'x'; 30])).collect();
        Executed { result, output }
    }

    fn results(left: &LeftBehind) -> Vec<Executed> {
        left.results().cloned().collect()
    }

    #[test]
    fn what_was_noted_and_not_stored_is_found_when_the_worker_is_gone() {
        let project = Project::new();
        let journal = project.begin();
        for unit in 0..4 {
            journal.note(&executed(unit)).unwrap();
        }
        journal.settle(&[UnitIndex(0), UnitIndex(2)]);
        assert_eq!(project.left().len(), 0, "its worker lives");
        drop(journal);
        let left = project.left();
        assert_eq!(left[0].header(), &project.header());
        assert_eq!((results(&left[0]), left[0].damaged()), (vec![executed(1), executed(3)], 0));
        assert_eq!(project.left().len(), 0, "somebody is at it");
        let reminder = project.journals.reminder();
        assert_eq!(reminder, None, "somebody is at it");
        drop(left);
        let reminder = project.journals.reminder().unwrap();
        assert!(reminder.starts_with("2 results of nightly/1 could not be stored: "), "{reminder}");
    }

    #[test]
    fn only_its_owner_may_read_it_and_version_control_does_not_see_it() {
        let project = Project::new();
        let _journal = project.begin();
        let file = &project.files()[0];
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        let ignored = project.folder.path().join(".etcdtest/.gitignore");
        assert_eq!(fs::read_to_string(ignored).unwrap(), "*\n");
    }

    #[test]
    fn a_unit_that_was_executed_again_has_its_newest_result() {
        let project = Project::new();
        let journal = project.begin();
        let mut newest = executed(1);
        newest.result.token = Fence(9);
        for executed in [executed(1), newest.clone()] {
            journal.note(&executed).unwrap();
        }
        drop(journal);
        assert_eq!(results(&project.left()[0]), [newest]);
    }

    #[test]
    fn it_goes_once_nothing_in_it_is_to_be_stored() {
        let project = Project::new();
        let journal = project.begin();
        journal.note(&executed(1)).unwrap();
        let kept = Kept { results: 1, path: project.files()[0].clone() };
        assert_eq!(journal.end(false), Some(kept));
        journal.settle(&[UnitIndex(1)]);
        assert_eq!((journal.end(false), project.files().len()), (None, 0));

        let over = project.begin();
        over.note(&executed(1)).unwrap();
        assert_eq!(
            (over.end(true), project.files().len()),
            (None, 0),
            "nobody wants the results of a run that is over"
        );

        let killed = project.begin();
        killed.note(&executed(1)).unwrap();
        killed.settle(&[UnitIndex(1)]);
        drop(killed);
        assert_eq!((project.files().len(), project.left().len(), project.files().len()), (1, 0, 0));
    }

    #[test]
    fn one_that_was_cut_off_anywhere_has_all_before_that_and_is_not_called_damaged() {
        let project = Project::new();
        let journal = project.begin();
        let mut ends = Vec::new();
        let size = || usize::try_from(fs::metadata(&project.files()[0]).unwrap().len()).unwrap();
        for unit in 1..4 {
            journal.note(&executed(unit)).unwrap();
            ends.push(size());
        }
        drop(journal);
        let file = &project.files()[0];
        let whole = fs::read(file).unwrap();
        for cut in 0..=whole.len() {
            fs::write(file, &whole[..cut]).unwrap();
            let noted = (1..4).zip(&ends).filter(|(_, end)| **end <= cut).map(|(unit, _)| executed(unit));
            let noted: Vec<_> = noted.collect();
            let left = project.left();
            assert_eq!(left.len(), usize::from(!noted.is_empty()), "cut at {cut}");
            assert!(left.iter().all(|left| results(left) == noted && left.damaged() == 0), "cut at {cut}");
            // One of nothing may be that of a worker that is just beginning.
            assert_eq!(file.exists(), cut == 0 || !noted.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_told_and_costs_no_other_result() {
        let project = Project::new();
        let journal = project.begin();
        (1..4).for_each(|unit| journal.note(&executed(unit)).unwrap());
        drop(journal);
        let file = &project.files()[0];
        let mut bytes = fs::read(file).unwrap();
        let at = bytes.windows(9).position(|window| window == b"/logs/2/0").unwrap();
        bytes[at] ^= 1;
        fs::write(file, &bytes).unwrap();
        let left = project.left();
        assert_eq!(results(&left[0]), [executed(1), executed(3)]);
        assert!(left[0].damaged() > 60, "{}", left[0].damaged());
    }

    #[test]
    fn a_file_without_any_record_is_named_and_left_alone() {
        let project = Project::new();
        drop(project.begin());
        let file = &project.files()[0];
        for garbage in [&[0; 4096][..], b"notes of mine", b"\n\0et\x01\0\0\0\0\0\0\0checksumx"] {
            fs::write(file, garbage).unwrap();
            let error = project.journals.left_behind().remove(0).unwrap_err();
            let text = error.to_string();
            assert!(error.path() == file && text.ends_with("no record in it is whole"), "{text}");
            assert!(text.contains(&*file.to_string_lossy()) && file.exists());
        }
    }

    #[test]
    fn one_of_a_newer_version_is_named_and_left_alone() {
        let project = Project::new();
        drop(project.begin());
        let file = &project.files()[0];
        let newer = super::super::frames::frame([&b"{\"schema\":99}"[..]]);
        fs::write(file, newer).unwrap();
        let error = project.journals.left_behind().remove(0).unwrap_err().to_string();
        assert!(error.contains(&*file.to_string_lossy()) && error.contains("schema is 99"), "{error}");
        assert!(file.exists());
    }
}
