//! The etcd that results are stored in.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long it may take to start on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Starts the program after it, and ends it when standard input ends: with this process,
/// however that ends.
const GUARD: &str = r#""$@" </dev/null & read -r _; kill -9 $!; wait $!"#;

/// A running etcd of one member, with its data, both gone with this value.
#[derive(Debug)]
pub(super) struct EtcdServer {
    guard: Child,
    folder: PathBuf,
    client: u16,
}

impl EtcdServer {
    /// Starts it, and waits until it is healthy.
    ///
    /// # Errors
    /// It does not start: its log is in the message.
    pub(super) fn start(programs: &Path, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let log = folder.join("log");
        let file = File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
        let (client, peer) = free_ports()?;
        let url = |port| format!("http://127.0.0.1:{port}");
        let guard = Command::new("sh")
            .args(["-c", GUARD, "etcd"])
            .arg(programs.join("etcd"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &format!("default={}", url(peer))])
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("failed to start a shell")?;
        let server = Self { guard, folder, client };
        let started = Instant::now();
        while !server.is_healthy() {
            if started.elapsed() > PATIENCE {
                bail!("etcd does not start:\n{}", fs::read_to_string(log).unwrap_or_default());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Where it listens for clients, `host:port`.
    pub(super) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.client))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.guard.stdin = None;
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Two ports that nobody listens on now.
fn free_ports() -> Result<(u16, u16)> {
    let listen = || TcpListener::bind(("127.0.0.1", 0)).context("failed to find a free port");
    // Both at once, so that they differ.
    let (one, other) = (listen()?, listen()?);
    Ok((one.local_addr()?.port(), other.local_addr()?.port()))
}
