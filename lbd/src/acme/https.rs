//! How the directory is spoken with: HTTP/1.1 over TLS, a connection for each request, with bounds on time and size. An order takes a dozen
//! requests in two months.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For finding the server's addresses, and for the handshake, each.
const STEP_MAX: Duration = Duration::from_secs(10);

/// For a connection to one of the addresses: the next one may answer.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// So many of the addresses are tried.
const ADDRESSES_MAX: usize = 8;

/// For all of a request. Authorities may take their time before they sign.
const EXCHANGE_MAX: Duration = Duration::from_secs(60);

/// The largest answer, in bytes: more than the longest chain of certificates has.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The longest wait that an authority may want, in seconds. What waits for longer is given up by then; and the crate adds whatever it reads to
/// the time of day, which overflows.
const WAIT_SECONDS_MAX: u64 = 86_400;

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
    #[error("cannot find the address of {0} within {max} s", max = STEP_MAX.as_secs())]
    NotFoundInTime(String),
    #[error("cannot find the address of {0}: {1}")]
    NotFound(String, io::Error),
    #[error("cannot connect to {0}: {1}")]
    NotConnected(String, io::Error),
    #[error("no TLS handshake with {0} within {max} s", max = STEP_MAX.as_secs())]
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
    let addresses = timeout(STEP_MAX, lookup_host((host.as_str(), port)))
        .await
        .map_err(|_| Unanswered::NotFoundInTime(authority.clone()))?
        .map_err(|error| Unanswered::NotFound(authority.clone(), error))?;
    let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
    let stream =
        connect(&addresses).await.map_err(|error| Unanswered::NotConnected(authority.clone(), error))?;
    let stream = timeout(STEP_MAX, tls.connect(name, stream))
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
    let (mut parts, body) = answer.into_parts();
    forget_absurd_wait(&mut parts.headers);
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| match error
        .downcast_ref::<LengthLimitError>()
    {
        Some(_) => Unanswered::TooLarge(authority.clone()),
        None => Unanswered::CutOff(authority.clone(), error),
    })?;
    Ok(BytesResponse { parts, body: Box::new(body.to_bytes()) })
}

/// A connection to the first of the addresses that takes one.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::other("it has no address");
    for &address in addresses {
        match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {
                let why = format!("{address} does not answer within {} s", CONNECT_MAX.as_secs());
                last = io::Error::new(io::ErrorKind::TimedOut, why);
            }
        }
    }
    Err(last)
}

/// Removes what nobody can wait for.
fn forget_absurd_wait(headers: &mut HeaderMap) {
    let wait = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = wait.and_then(|text| text.trim().parse::<u64>().ok());
    if seconds.is_some_and(|seconds| seconds > WAIT_SECONDS_MAX) {
        headers.remove(header::RETRY_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn only_a_wait_that_can_be_is_heard() {
        for (text, stays) in [
            ("0", true),
            ("86400", true),
            ("Fri, 31 Dec 1999 23:59:59 GMT", true),
            ("soon", true),
            ("86401", false),
            (" 86401 ", false),
            ("18446744073709551615", false),
            // What is no number is not added to anything.
            ("18446744073709551616", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            forget_absurd_wait(&mut headers);
            assert_eq!(headers.contains_key(header::RETRY_AFTER), stays, "{text}");
        }
    }

    #[test]
    fn an_address_that_does_not_answer_leaves_time_for_the_next_ones() {
        // A listener whose queue is full.
        let ip = Ipv4Addr::LOCALHOST;
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        full.listen(0).unwrap();
        let hanging = full.local_addr().unwrap().as_socket().unwrap();
        let _queued = std::net::TcpStream::connect(hanging).unwrap();
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let last = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let both = [hanging, last];
        let stream = runtime.block_on(async { timeout(STEP_MAX, connect(&both)).await }).unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), last);
        let nobody = runtime.block_on(connect(&[])).unwrap_err();
        assert_eq!(nobody.to_string(), "it has no address");
    }
}
