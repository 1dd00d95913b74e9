//! Real etcd processes: one, a cluster of three, with users, with TLS.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use cargo_etcdtest::store::Secret;
use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Port;
use crate::processes::{PATIENCE, state};

/// How long a member is given to say how it is.
const ANSWER: Duration = Duration::from_secs(5);

/// How often a start is tried with other ports.
const TRIES: usize = 10;

/// Starts the program after it, says its process id, and ends it when standard input
/// ends: with the test, however that ends.
const GUARD: &str = r#""$@" </dev/null >&2 & echo $!; read -r _; kill -9 $!; wait $! 2>/dev/null"#;

/// One etcd process, killed on drop and when the test process dies.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    ports: Ports,
    peers: String,
    flags: Vec<String>,
    folder: TempDir,
    running: Option<Running>,
}

/// Three members of one cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The members.
    pub members: Vec<Etcd>,
}

/// They stay its own while it is down.
#[derive(Debug)]
struct Ports {
    client: Port,
    peer: Port,
    health: Port,
}

#[derive(Debug)]
struct Running {
    guard: Child,
    /// Held open: its end ends the process.
    lifeline: Option<ChildStdin>,
    process: Pid,
}

impl Etcd {
    /// A healthy etcd of one member.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A healthy etcd of one member with more flags.
    pub fn with(flags: &[&str]) -> Self {
        let mut members = start_all(1, flags);
        members.remove(0)
    }

    /// A healthy etcd of one member that asks for a user and password; root's password is
    /// `root`.
    pub async fn with_users(flags: &[&str]) -> Self {
        let etcd = Self::with(flags);
        etcd.enable_auth().await;
        etcd
    }

    /// Where it listens for clients, `host:port`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client.number())
    }

    /// How to reach it.
    pub fn options(&self) -> EtcdOptions {
        options(vec![self.endpoint()])
    }

    /// How to reach it as a user.
    pub fn options_as(&self, user: &str, password: &str) -> EtcdOptions {
        EtcdOptions {
            user: Some(user.into()),
            password: Some(Secret::new(password)),
            ..options(vec![self.endpoint()])
        }
    }

    /// A store on it.
    pub async fn connect(&self) -> EtcdStore {
        EtcdStore::connect(self.options()).await.expect("a healthy etcd takes a connection")
    }

    /// A plain client of it, for what the store does not offer.
    pub async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.endpoint()], None)
            .await
            .expect("a healthy etcd takes a connection")
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it again, with its data and ports.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    /// Stops it with SIGSTOP: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it answers and its cluster has a leader.
    pub fn wait_until_healthy(&mut self) {
        let started = Instant::now();
        while !self.is_healthy() {
            assert!(
                !self.has_ended() && started.elapsed() < PATIENCE,
                "etcd is not healthy:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Creates the user `root` with the password `root` and switches authentication on.
    pub async fn enable_auth(&self) {
        let client = self.client().await;
        let mut auth = client.auth_client();
        auth.user_add("root", "root", None).await.expect("add the user");
        auth.role_add("root").await.expect("add the role");
        auth.user_grant_role("root", "root").await.expect("grant the role");
        auth.auth_enable().await.expect("enable authentication");
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("etcd runs");
        kill_process(running.process, signal).expect("etcd runs");
    }

    fn spawn(&mut self) {
        let scheme =
            if self.flags.iter().any(|flag| flag.starts_with("--cert-file")) { "https" } else { "http" };
        let url = |port: &Port| format!("http://127.0.0.1:{}", port.number());
        let client = format!("{scheme}://{}", self.endpoint());
        let log = self.folder.path().join("log");
        let log = File::options().create(true).append(true).open(log).expect("write the log");
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "etcd"])
            .arg(binary())
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &url(&self.ports.peer)])
            .args(["--initial-advertise-peer-urls", &url(&self.ports.peer)])
            .args(["--listen-metrics-urls", &url(&self.ports.health)])
            .args(["--initial-cluster", &self.peers])
            .args(&self.flags)
            // Tests end processes, not machines: what was written is there without waiting for
            // the disk.
            .env("ETCD_UNSAFE_NO_FSYNC", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start a shell");
        let lifeline = guard.stdin.take();
        let mut said = String::new();
        let stdout = guard.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut said).expect("the shell says the process id");
        let process =
            said.trim().parse().ok().and_then(Pid::from_raw).expect("the shell says the process id");
        self.running = Some(Running { guard, lifeline, process });
    }

    /// Whether the process is gone, as when another one holds its ports.
    fn has_ended(&self) -> bool {
        let Some(running) = &self.running else { return true };
        // Its parent, the guard, keeps it as a zombie.
        state(running.process) == Some('Z')
    }

    fn is_healthy(&self) -> bool {
        self.ask("/health").is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }

    /// How many requests of keys it has answered since it was started: reads, writes and
    /// transactions.
    ///
    /// # Panics
    /// It does not say so.
    pub fn requests(&self) -> u64 {
        let metrics = self.ask("/metrics").expect("etcd answers");
        let is_meant = |line: &&str| {
            line.starts_with("grpc_server_handled_total{")
                && line.contains(r#"grpc_service="etcdserverpb.KV""#)
        };
        let count = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
        metrics.lines().filter(is_meant).map(|line| count(line).expect("it is a number")).sum()
    }

    /// Asks it for a page about itself.
    fn ask(&self, path: &str) -> std::io::Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports.health.number()));
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// How often it refused a token as one that it does not know, or not any more.
    pub fn refused_tokens(&self) -> usize {
        self.log().matches("invalid auth token").count()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lifeline = None;
        let _ = self.guard.wait();
    }
}

impl Cluster {
    /// Three healthy members.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Three healthy members with more flags.
    pub fn with(flags: &[&str]) -> Self {
        Self { members: start_all(3, flags) }
    }

    /// Where the members listen for clients.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    /// How to reach it.
    pub fn options(&self) -> EtcdOptions {
        options(self.endpoints())
    }

    /// A store on it that asks the members in this order.
    pub async fn connect(&self) -> EtcdStore {
        EtcdStore::connect(self.options()).await.expect("a healthy cluster takes a connection")
    }
}

/// Timeouts for a loaded machine.
fn options(endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions { endpoints, connect_timeout: Duration::from_secs(10), ..EtcdOptions::default() }
}

/// Starts members that are healthy, with other ports where somebody else took theirs.
fn start_all(count: usize, flags: &[&str]) -> Vec<Etcd> {
    for _ in 0..TRIES {
        let ports: Vec<Ports> = (0..count).map(|_| Ports::free()).collect();
        let peers: Vec<String> = (ports.iter().enumerate())
            .map(|(number, ports)| format!("m{number}=http://127.0.0.1:{}", ports.peer.number()))
            .collect();
        let mut members: Vec<Etcd> = (ports.into_iter().enumerate())
            .map(|(number, ports)| Etcd {
                name: format!("m{number}"),
                ports,
                peers: peers.join(","),
                flags: flags.iter().map(ToString::to_string).collect(),
                folder: tempfile::tempdir().expect("make a folder"),
                running: None,
            })
            .collect();
        members.iter_mut().for_each(Etcd::spawn);
        let taken = |etcd: &Etcd| etcd.has_ended() && etcd.log().contains("address already in use");
        let started = Instant::now();
        loop {
            if members.iter().all(Etcd::is_healthy) {
                return members;
            }
            if members.iter().any(taken) {
                break;
            }
            let dead = members.iter().find(|etcd| etcd.has_ended() || started.elapsed() > PATIENCE);
            assert!(dead.is_none(), "etcd does not start:\n{}", dead.map(Etcd::log).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    panic!("no free ports for etcd in {TRIES} tries");
}

impl Ports {
    fn free() -> Self {
        Self { client: Port::free(), peer: Port::free(), health: Port::free() }
    }
}

/// The etcd to run.
pub fn binary() -> PathBuf {
    folder().join("etcd")
}

/// The folder with `etcd` and `etcdctl`: that in `ETCDTEST_ETCD_BIN`, else the one on `PATH`.
///
/// # Panics
/// There is none: no test is skipped for the lack of it.
pub fn folder() -> PathBuf {
    let named = std::env::var_os("ETCDTEST_ETCD_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = named.or_else(|| std::env::split_paths(&path).find(|folder| folder.join("etcd").is_file()));
    let folder = folder.expect(
        "no etcd: run `cargo xtask test`, which finds or unpacks one, or name the folder with `etcd` and \
         `etcdctl` in ETCDTEST_ETCD_BIN",
    );
    assert!(folder.join("etcd").is_file(), "there is no etcd in {}", folder.display());
    folder
}
