//! Where each record lives. The one place that knows the layout of keys.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use super::api::Key;
use crate::model::{Holder, RunId, TestCaseId, UnitIndex, WorkerId};

/// What is escaped within a segment, besides everything that is not ASCII.
const SEGMENT: &AsciiSet = &CONTROLS.add(b'/').add(b'%');

/// `/testcases/`: all test cases.
pub const TEST_CASES: &str = "/testcases/";
/// `/environments/`: all environments as they are now.
pub const ENVIRONMENTS: &str = "/environments/";
/// `/runs/`: all runs.
pub const RUNS: &str = "/runs/";
/// `/results/`: the latest result of every test case in every environment.
pub const RESULTS: &str = "/results/";
/// `/secrets/`: all versions of all secrets.
pub const SECRETS: &str = "/secrets/";
/// `/workers/`: all live workers.
pub const WORKERS: &str = "/workers/";

/// `/locks/environments/`: everybody who reserves an environment, or waits for it.
pub const LOCKS: &str = "/locks/environments/";

/// What is stored of runs beside their records: below each of these, a segment for each run.
pub const RUN_TREES: [&str; 3] = ["/execution/", "/logs/", "/reports/"];
/// Everything that is stored, but for what hangs on leases. What others refer to comes
/// before them, and a run before what is stored of it.
pub const STORED: [&str; 10] = [
    TEST_CASES,
    "/data/",
    SECRETS,
    "/history/",
    ENVIRONMENTS,
    RESULTS,
    RUNS,
    "/execution/",
    "/logs/",
    "/reports/",
];
/// What hangs on leases.
pub const LEASED: [&str; 2] = [WORKERS, "/locks/"];

/// One segment of a key, escaped.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// The segments of a key below a prefix, unescaped; `None` where the key is not below it
/// or is not UTF-8.
pub fn segments_below(key: &Key, prefix: &str) -> Option<Vec<String>> {
    let rest = key.as_bytes().strip_prefix(prefix.as_bytes())?;
    rest.split(|&byte| byte == b'/')
        .map(|part| percent_decode(part).decode_utf8().ok().map(Into::into))
        .collect()
}

/// A test case.
pub fn test_case(id: &TestCaseId) -> Key {
    format!("{TEST_CASES}{}", test_path(id)).into()
}

/// All test cases of one package.
pub fn test_cases_in(package: &str) -> Key {
    format!("{TEST_CASES}{}/", segment(package)).into()
}

/// An environment as it is now.
pub fn environment(name: &str) -> Key {
    format!("{ENVIRONMENTS}{}", segment(name)).into()
}

/// All versions of an environment.
pub fn environment_history(name: &str) -> Key {
    format!("/history/environments/{}/", segment(name)).into()
}

/// One version of an environment.
pub fn environment_version(name: &str, version: u64) -> Key {
    format!("/history/environments/{}/{version:010}", segment(name)).into()
}

/// All versions of a secret.
pub fn secret_versions(environment: &str, name: &str) -> Key {
    format!("/secrets/{}/{}/", segment(environment), segment(name)).into()
}

/// One version of a secret.
pub fn secret(environment: &str, name: &str, version: u64) -> Key {
    format!("/secrets/{}/{}/{version:010}", segment(environment), segment(name)).into()
}

/// All chunks of a data set of this digest, which belongs to this environment.
pub fn data(environment: &str, digest: &str) -> Key {
    format!("/data/{}/{}/", segment(environment), segment(digest)).into()
}

/// One chunk of a data set, counted from 0.
pub fn data_chunk(environment: &str, digest: &str, chunk: usize) -> Key {
    format!("/data/{}/{}/{chunk:06}", segment(environment), segment(digest)).into()
}

/// A run's record.
pub fn run(run: &RunId) -> Key {
    format!("{RUNS}{}", segment(run.as_str())).into()
}

/// All that is stored of a run beside its record: one prefix for each of [`RUN_TREES`].
pub fn run_trees(run: &RunId) -> [Key; 3] {
    RUN_TREES.map(|tree| format!("{tree}{}/", segment(run.as_str())).into())
}

/// Everything about how a run is shared out.
pub fn execution(run: &RunId) -> Key {
    format!("/execution/{}/", segment(run.as_str())).into()
}

fn execution_child(run: &RunId, rest: &str) -> Key {
    format!("/execution/{}/{rest}", segment(run.as_str())).into()
}

/// All chunks of a run's plan.
pub fn plan(run: &RunId) -> Key {
    execution_child(run, "plan/")
}

/// One chunk of a run's plan, counted from 0.
pub fn plan_chunk(run: &RunId, chunk: usize) -> Key {
    execution_child(run, &format!("plan/{chunk:06}"))
}

/// All environment snapshots of a run.
pub fn snapshots(run: &RunId) -> Key {
    execution_child(run, "environments/")
}

/// One environment snapshot of a run.
pub fn snapshot(run: &RunId, environment: &str) -> Key {
    execution_child(run, &format!("environments/{}", segment(environment)))
}

/// The rules of a run.
pub fn rules(run: &RunId) -> Key {
    execution_child(run, "rules")
}

/// All stripes' next positions.
pub fn next_positions(run: &RunId) -> Key {
    execution_child(run, "next/")
}

/// The next undealt position of a stripe, counted from 0.
pub fn next_position(run: &RunId, stripe: usize) -> Key {
    execution_child(run, &format!("next/{stripe:04}"))
}

/// All claim records of a run.
pub fn claims(run: &RunId) -> Key {
    execution_child(run, "claims/")
}

/// The units a worker holds.
pub fn claim(run: &RunId, worker: &WorkerId) -> Key {
    execution_child(run, &format!("claims/{}", segment(worker.as_str())))
}

/// Whose claim record this is.
pub fn claim_owner(claim: &Key) -> Option<WorkerId> {
    let segments = segments_below(claim, "/execution/")?;
    segments.into_iter().next_back().map(WorkerId::new)
}

/// All result blocks of a run.
pub fn blocks(run: &RunId) -> Key {
    execution_child(run, "results/")
}

/// All result blocks that a worker wrote, in whichever of its lives.
pub fn blocks_of(run: &RunId, worker: &WorkerId) -> Key {
    execution_child(run, &format!("results/{}-", segment(worker.as_str())))
}

/// One block of results: `number` counts over the whole process of the worker whose key
/// was created at `identity`.
pub fn block(run: &RunId, worker: &WorkerId, identity: i64, number: u64) -> Key {
    execution_child(run, &format!("results/{}", block_name(worker, identity, number)))
}

/// How many units failed, of all blocks of results in which some did.
pub fn failures(run: &RunId) -> Key {
    execution_child(run, "failed/")
}

/// How many units of this block of results failed.
pub fn failures_of_block(run: &RunId, worker: &WorkerId, identity: i64, number: u64) -> Key {
    execution_child(run, &format!("failed/{}", block_name(worker, identity, number)))
}

fn block_name(worker: &WorkerId, identity: i64, number: u64) -> String {
    format!("{}-{identity}.{number:08}", segment(worker.as_str()))
}

/// A live worker.
pub fn worker(worker: &WorkerId) -> Key {
    format!("{WORKERS}{}", segment(worker.as_str())).into()
}

/// Everybody who reserves an environment, or waits for it.
pub fn locks(environment: &str) -> Key {
    format!("{LOCKS}{}/", segment(environment)).into()
}

/// The queue in which a holder stands: workers for resources, all others for environments.
pub fn queue(name: &str, holder: &Holder) -> Key {
    match holder {
        Holder::Run(_) | Holder::Person(_) => locks(name),
        Holder::Worker(_) => format!("/locks/resources/{}/", segment(name)).into(),
    }
}

/// A place in the queue for an environment or a resource.
pub fn lock(name: &str, holder: &Holder) -> Key {
    format!("{}{}", queue(name, holder), segment(&holder.id())).into()
}

/// The note for whoever lost an environment to somebody.
pub fn released(environment: &str, holder: &Holder) -> Key {
    format!("/locks/released/{}/{}", segment(environment), segment(&holder.id())).into()
}

/// All output of a run.
pub fn logs(run: &RunId) -> Key {
    format!("/logs/{}/", segment(run.as_str())).into()
}

/// All output of one attempt.
pub fn attempt_logs(run: &RunId, unit: UnitIndex, token: i64, attempt: u32) -> Key {
    format!("/logs/{}/{unit}.{token}.{attempt}/", segment(run.as_str())).into()
}

/// All chunks of a stream or attachment of an attempt.
pub fn log(run: &RunId, unit: UnitIndex, token: i64, attempt: u32, name: &str) -> Key {
    format!("/logs/{}/{unit}.{token}.{attempt}/{}/", segment(run.as_str()), segment(name)).into()
}

/// One chunk of a stream or attachment of an attempt.
pub fn log_chunk(run: &RunId, unit: UnitIndex, token: i64, attempt: u32, name: &str, chunk: usize) -> Key {
    format!("/logs/{}/{unit}.{token}.{attempt}/{}/{chunk:06}", segment(run.as_str()), segment(name)).into()
}

/// The latest result of a test case in an environment.
pub fn latest_result(id: &TestCaseId, environment: &str) -> Key {
    format!("{RESULTS}{}/{}", test_path(id), segment(environment)).into()
}

/// The latest results of a test case in every environment.
pub fn latest_results(id: &TestCaseId) -> Key {
    format!("{RESULTS}{}/", test_path(id)).into()
}

/// All reports of a run.
pub fn reports(run: &RunId) -> Key {
    format!("/reports/{}/", segment(run.as_str())).into()
}

/// All chunks of one report of a run.
pub fn report(run: &RunId, name: &str) -> Key {
    format!("/reports/{}/{}/", segment(run.as_str()), segment(name)).into()
}

/// One chunk of a report of a run, counted from 0.
pub fn report_chunk(run: &RunId, name: &str, chunk: usize) -> Key {
    format!("/reports/{}/{}/{chunk:06}", segment(run.as_str()), segment(name)).into()
}

fn test_path(id: &TestCaseId) -> String {
    format!("{}/{}/{}", segment(&id.package), segment(&id.binary), segment(&id.test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_escaped_so_that_it_stays_one_segment_and_reads_back() {
        let id = TestCaseId::new("shop", "bin/shop", "a::b%\n/ü");
        let key = test_case(&id);
        assert_eq!(key.to_string(), "/testcases/shop/bin%2Fshop/a::b%25%0A%2F%C3%BC");
        assert_eq!(
            segments_below(&key, TEST_CASES),
            Some(vec!["shop".into(), "bin/shop".into(), "a::b%\n/ü".into()])
        );
    }
}
