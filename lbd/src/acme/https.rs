//! How the directory is spoken with: HTTP/1.1 over TLS, a connection for each request, with bounds on time and size. An order takes a dozen
//! requests in two months.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For the connection, with finding the server's address, and for the handshake, each.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// For all of a request. Authorities may take their time before they sign.
const EXCHANGE_MAX: Duration = Duration::from_secs(60);

/// The largest answer, in bytes: more than the longest chain of certificates has.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The port of addresses that name none.
const PORT: u16 = 443;

/// Sends requests.
#[derive(Clone)]
pub(super) struct Https {
    tls: TlsConnector,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the directory names the address {0}, which is none of https")]
    Address(Uri),
    #[error("cannot connect to {0} within {max} s", max = CONNECT_MAX.as_secs())]
    NotConnectedInTime(String),
    #[error("cannot connect to {0}: {1}")]
    NotConnected(String, io::Error),
    #[error("no TLS handshake with {0} within {max} s", max = CONNECT_MAX.as_secs())]
    NoHandshakeInTime(String),
    #[error(
        "no TLS with {0}: {1}; with an authority of your own, name who has signed its certificate in acme.roots"
    )]
    NoHandshake(String, io::Error),
    #[error("{0} does not answer: {1}")]
    NoAnswer(String, hyper::Error),
    #[error("the answer of {0} is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge(String),
    #[error("the answer of {0} was cut off: {1}")]
    CutOff(String, Box<dyn StdError + Send + Sync>),
    #[error("no whole answer of {0} within {max} s", max = EXCHANGE_MAX.as_secs())]
    NotAnsweredInTime(String),
}

impl Https {
    pub(super) fn new(config: &Arc<ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(Arc::clone(config)) }
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = self.tls.clone();
        Box::pin(async move {
            let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
            let answer = timeout(EXCHANGE_MAX, exchange(tls, request, authority.clone())).await;
            let answer = answer.unwrap_or(Err(Unanswered::NotAnsweredInTime(authority)));
            answer.map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

async fn exchange(
    tls: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
    authority: String,
) -> Result<BytesResponse, Unanswered> {
    let uri = request.uri().clone();
    let bad = || Unanswered::Address(uri.clone());
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
    let field = HeaderValue::from_str(&authority).map_err(|_| bad())?;
    let port = uri.port_u16().unwrap_or(PORT);
    let stream = timeout(CONNECT_MAX, TcpStream::connect((host.as_str(), port)))
        .await
        .map_err(|_| Unanswered::NotConnectedInTime(authority.clone()))?
        .map_err(|error| Unanswered::NotConnected(authority.clone(), error))?;
    let stream = timeout(CONNECT_MAX, tls.connect(name, stream))
        .await
        .map_err(|_| Unanswered::NoHandshakeInTime(authority.clone()))?
        .map_err(|error| Unanswered::NoHandshake(authority.clone(), error))?;
    // RFC 9112, section 3.2.1: to the server itself, only path and query are sent.
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(header::HOST, field);
    let no_answer = |error| Unanswered::NoAnswer(authority.clone(), error);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(no_answer)?;
    // Ends with this exchange, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(no_answer)?;
    let (parts, body) = answer.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| match error
        .downcast_ref::<LengthLimitError>()
    {
        Some(_) => Unanswered::TooLarge(authority.clone()),
        None => Unanswered::CutOff(authority.clone(), error),
    })?;
    Ok(BytesResponse { parts, body: Box::new(body.to_bytes()) })
}
