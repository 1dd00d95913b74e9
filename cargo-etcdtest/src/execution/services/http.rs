//! One GET over HTTP/1.1, with or without TLS. Redirects are not followed, and proxies are
//! not used: what is asked is what answers.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// The largest body that is read, in bytes.
const BODY: usize = 1 << 20;

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status.
    pub(super) status: u16,
    /// The body; empty where none was asked for.
    pub(super) body: Bytes,
}

/// Asks for a URL.
///
/// # Errors
/// Why there was no answer, in words that do not show the URL.
pub(super) async fn get(url: &Uri, with_body: bool) -> Result<Answer, String> {
    let host = url.host().ok_or("the URL has no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let tls = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("the URL begins neither with http:// nor with https://".into()),
    };
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = TcpStream::connect((bare, port)).await.map_err(|error| error.to_string())?;
    if !tls {
        return ask(stream, url, with_body).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(trust()?).connect(name, stream).await;
    ask(stream.map_err(|error| error.to_string())?, url, with_body).await
}

async fn ask<S>(stream: S, url: &Uri, with_body: bool) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    let host = url.host().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("cargo-etcdtest/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let status = response.status().as_u16();
        if !with_body {
            return Ok(Answer { status, body: Bytes::new() });
        }
        let body = Limited::new(response.into_body(), BODY).collect().await;
        let body = body.map_err(|error| format!("its answer cannot be read: {error}"))?;
        Ok(Answer { status, body: body.to_bytes() })
    };
    // The connection ends with the exchange, or says nothing that the exchange does not.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

/// The system's certificates.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    };
    TRUST.get_or_init(load).clone()
}

/// An error with what caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
