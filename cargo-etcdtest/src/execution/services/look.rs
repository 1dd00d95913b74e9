//! Looking whether something answers, again and again until it does.

use std::time::Duration;

use hyper::Uri;
use regex::Regex;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout_at};

use super::http;

/// How long it waits before it looks a second time.
const FIRST: Duration = Duration::from_millis(10);
/// How long it waits between two looks at the most.
const LONGEST: Duration = Duration::from_secs(1);
/// How long the last look may take.
const LAST: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);

/// Looks until it is there, and says after how long that was.
///
/// # Errors
/// It was not there in time, and why.
pub(super) async fn wait_for<F>(limit: Duration, look: impl Fn() -> F) -> Result<Duration, String>
where
    F: Future<Output = Result<(), String>>,
{
    let began = Instant::now();
    let end = began + limit;
    let (mut pause, mut reason) = (FIRST, "there was no answer".to_owned());
    loop {
        match timeout_at((end + LAST).min(Instant::now() + LOOK), look()).await {
            Ok(Ok(())) => return Ok(began.elapsed()),
            Ok(Err(said)) => reason = said,
            Err(_) => {}
        }
        if Instant::now() >= end {
            let limit = humantime::format_duration(limit);
            return Err(format!("{reason} (waited {limit} for it)"));
        }
        // One last look is taken at the very end.
        sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Whether a GET is answered as it should be: with this status, or any 2xx, and with a body
/// that matches.
///
/// # Errors
/// Why not, without the URL.
pub(super) async fn http(url: &str, status: Option<u16>, body: Option<&Regex>) -> Result<(), String> {
    let url: Uri = url.parse().map_err(|error| format!("its URL is wrong: {error}"))?;
    let answer = http::get(&url, body.is_some()).await?;
    let right = status.map_or((200..300).contains(&answer.status), |wanted| wanted == answer.status);
    if !right {
        let wanted = status.map_or_else(|| "2xx".to_owned(), |status| status.to_string());
        return Err(format!("it answered with status {} and not with {wanted}", answer.status));
    }
    match body {
        Some(pattern) if !pattern.is_match(&String::from_utf8_lossy(&answer.body)) => {
            Err(format!("its answer does not match `{pattern}`"))
        }
        _ => Ok(()),
    }
}

/// Whether somebody accepts connections at `host:port`.
///
/// # Errors
/// Why not.
pub(super) async fn tcp(address: &str) -> Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
}

/// Whether a host name has an address.
///
/// # Errors
/// Why not.
pub(super) async fn dns(host: &str) -> Result<(), String> {
    let mut found = lookup_host((host, 0)).await.map_err(|error| error.to_string())?;
    found.next().map(drop).ok_or_else(|| "it has no address".into())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives this answer to one request.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        format!("http://{address}/health?deep=1")
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_status_and_body() {
        const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstate=up";
        let down = "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\ndown";
        let pattern = Regex::new("=up$").unwrap();
        assert_eq!(http(&server(OK).await, None, Some(&pattern)).await, Ok(()));
        assert_eq!(http(&server(OK).await, None, None).await, Ok(()));
        assert_eq!(http(&server(down).await, Some(503), None).await, Ok(()));
        let refused = http(&server(down).await, None, None).await.unwrap_err();
        assert_eq!(refused, "it answered with status 503 and not with 2xx");
        let refused = http(&server(OK).await, None, Some(&Regex::new("secret").unwrap())).await;
        assert_eq!(refused.unwrap_err(), "its answer does not match `secret`");
        assert!(http("ftp://x/", None, None).await.unwrap_err().contains("neither"));
    }

    #[tokio::test]
    async fn it_is_looked_again_until_it_is_there() {
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            std::future::ready(if looks.get() < 4 { Err("not yet".to_owned()) } else { Ok(()) })
        };
        assert!(wait_for(Duration::from_mins(1), look).await.is_ok());
        assert_eq!(looks.get(), 4);
    }

    #[tokio::test]
    async fn the_last_reason_is_told_when_the_time_is_over() {
        let said = wait_for(Duration::from_millis(50), || std::future::ready(Err("no route".into()))).await;
        assert_eq!(said.unwrap_err(), "no route (waited 50ms for it)");
        let said = wait_for(Duration::from_millis(50), std::future::pending).await;
        assert_eq!(said.unwrap_err(), "there was no answer (waited 50ms for it)");
    }
}
