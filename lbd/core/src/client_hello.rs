//! What a TLS client says before anything is encrypted (RFC 8446, 4.1.2; RFC 6066, 3; RFC 7301): the name of the server it
//! wants, and the protocols it speaks. Read to choose a target group; nothing is taken from the connection.
//!
//! The hello may come in any number of reads, and in any number of TLS records.

/// The most that is read of a connection in search of a hello, in bytes, record headers included.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

const RECORD_HEADER_BYTES: usize = 5;
const MESSAGE_HEADER_BYTES: usize = 4;
const RECORD_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const NAME_TYPE_HOST: u8 = 0;
/// "The maximum length of a DNS name".
const NAME_BYTES_MAX: usize = 255;

/// What a client says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server it wants, in lower case and without a dot at the end.
    pub server_name: Option<String>,
    /// The protocols it speaks (`h2`, `http/1.1`), the preferred one first.
    pub alpn: Vec<Vec<u8>>,
}

/// Why bytes are not a TLS client's hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// They don't begin with a TLS record of a handshake.
    #[error("the connection does not begin with a TLS handshake")]
    NotTls,
    /// The handshake begins with something else.
    #[error("the TLS handshake does not begin with a client's hello")]
    NotClientHello,
    /// It is longer than what is read.
    #[error("the TLS client's hello takes more than {HELLO_BYTES_MAX} bytes")]
    TooLong,
    /// A record of no byte or of more than 16 KiB, or of another kind in the middle of the hello.
    #[error("a TLS record in the client's hello is malformed")]
    Record,
    /// A part of the hello does not end where it should.
    #[error("the TLS client's hello has malformed {0}")]
    Malformed(&'static str),
}

/// Reads the hello of one connection.
///
/// It is handed all bytes received so far each time, and remembers how far it has looked at them, so that a client that
/// sends byte for byte costs no more than one that does not.
#[derive(Clone, Debug, Default)]
pub struct HelloReader {
    /// Where the first record begins that is not yet known to be whole.
    record: usize,
    /// Bytes of the handshake in the records before it.
    collected: usize,
}

impl HelloReader {
    /// Reads on in `bytes`, all that has been received of the connection. `None`: more is needed.
    ///
    /// # Errors
    /// When no continuation of `bytes` could be a client's hello of at most [`HELLO_BYTES_MAX`] bytes.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        let bytes = &bytes[..bytes.len().min(HELLO_BYTES_MAX)];
        loop {
            let rest = bytes.get(self.record..).unwrap_or_default();
            check_record_start(rest, self.record == 0)?;
            let Some(payload) = payload_bytes(rest)? else { break };
            let available = rest.len().min(RECORD_HEADER_BYTES + payload) - RECORD_HEADER_BYTES;
            // The message's own header says early how long it will be, and whether it is the right one.
            if let Some(message) = message_bytes(bytes, self.collected + available)? {
                if message > HELLO_BYTES_MAX - RECORD_HEADER_BYTES {
                    return Err(HelloError::TooLong);
                }
                if self.collected + available >= message {
                    return hello(bytes, message).map(Some);
                }
            }
            if available < payload {
                break;
            }
            self.collected += payload;
            self.record += RECORD_HEADER_BYTES + payload;
        }
        if bytes.len() >= HELLO_BYTES_MAX { Err(HelloError::TooLong) } else { Ok(None) }
    }
}

/// Judges the bytes of a record's header as far as they are there. Every version from SSL 3.0 on writes 3 first.
fn check_record_start(record: &[u8], first: bool) -> Result<(), HelloError> {
    let wrong = if first { HelloError::NotTls } else { HelloError::Record };
    match (record.first(), record.get(1)) {
        (Some(&kind), _) if kind != RECORD_HANDSHAKE => Err(wrong),
        (_, Some(&major)) if major != 3 => Err(wrong),
        _ => Ok(()),
    }
}

/// The length of a record's payload, once it is known.
fn payload_bytes(record: &[u8]) -> Result<Option<usize>, HelloError> {
    let Some(&[.., high, low]) = record.first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // "Implementations MUST NOT send zero-length fragments of Handshake types"; "The length MUST NOT exceed 2^14".
    if length == 0 || length > 1 << 14 { Err(HelloError::Record) } else { Ok(Some(length)) }
}

/// The length of the message with its header, once so many handshake bytes are there that it is known.
fn message_bytes(bytes: &[u8], available: usize) -> Result<Option<usize>, HelloError> {
    let mut header = [0; MESSAGE_HEADER_BYTES];
    let known = available.min(MESSAGE_HEADER_BYTES);
    // Usually all in the first record; no allocation either way.
    let mut filled = 0;
    for fragment in fragments(bytes) {
        let count = fragment.len().min(known - filled);
        header[filled..filled + count].copy_from_slice(&fragment[..count]);
        filled += count;
        if filled == known {
            break;
        }
    }
    if filled > 0 && header[0] != MESSAGE_CLIENT_HELLO {
        return Err(HelloError::NotClientHello);
    }
    let [_, high, middle, low] = header;
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    Ok((filled == MESSAGE_HEADER_BYTES).then_some(MESSAGE_HEADER_BYTES + length))
}

/// The payloads of the records in `bytes`, the last one as far as it is there.
fn fragments(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<RECORD_HEADER_BYTES>()?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let end = rest.len().min(RECORD_HEADER_BYTES + length);
        let fragment = &rest[RECORD_HEADER_BYTES..end];
        rest = &rest[end..];
        Some(fragment)
    })
}

/// Reads the message of `length` bytes, which the records hold.
fn hello(bytes: &[u8], length: usize) -> Result<ClientHello, HelloError> {
    let first = fragments(bytes).next().unwrap_or_default();
    if let Some(message) = first.get(..length) {
        return body(&message[MESSAGE_HEADER_BYTES..]);
    }
    let mut message = Vec::with_capacity(length);
    for fragment in fragments(bytes) {
        message.extend_from_slice(&fragment[..fragment.len().min(length - message.len())]);
    }
    body(&message[MESSAGE_HEADER_BYTES..])
}

fn body(bytes: &[u8]) -> Result<ClientHello, HelloError> {
    let mut body = Fields(bytes);
    let fixed = || HelloError::Malformed("fields");
    body.take(2 + 32).ok_or_else(fixed)?;
    let session = body.vector_u8().ok_or_else(fixed)?;
    let suites = body.vector_u16().ok_or_else(fixed)?;
    let compressions = body.vector_u8().ok_or_else(fixed)?;
    if session.0.len() > 32 || suites.0.is_empty() || suites.0.len() % 2 != 0 || compressions.0.is_empty() {
        return Err(fixed());
    }
    let mut found = ClientHello::default();
    if body.0.is_empty() {
        // Before TLS 1.3 a hello may have no extensions at all.
        return Ok(found);
    }
    let malformed = || HelloError::Malformed("extensions");
    let mut extensions = body.vector_u16().ok_or_else(malformed)?;
    if !body.0.is_empty() {
        return Err(malformed());
    }
    let (mut names_seen, mut alpn_seen) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16().ok_or_else(malformed)?;
        let content = extensions.vector_u16().ok_or_else(malformed)?;
        // "There MUST NOT be more than one extension of the same type": two names would be two ways to read the hello.
        let twice = match kind {
            EXTENSION_SERVER_NAME => {
                found.server_name = server_name(content)?;
                std::mem::replace(&mut names_seen, true)
            }
            EXTENSION_ALPN => {
                found.alpn = alpn(content).ok_or(HelloError::Malformed("protocol names"))?;
                std::mem::replace(&mut alpn_seen, true)
            }
            _ => false,
        };
        if twice {
            return Err(malformed());
        }
    }
    Ok(found)
}

fn server_name(mut content: Fields<'_>) -> Result<Option<String>, HelloError> {
    let malformed = || HelloError::Malformed("server names");
    let mut list = content.vector_u16().ok_or_else(malformed)?;
    if !content.0.is_empty() || list.0.is_empty() {
        return Err(malformed());
    }
    let mut name = None;
    while !list.0.is_empty() {
        let kind = list.u8().ok_or_else(malformed)?;
        let value = list.vector_u16().ok_or_else(malformed)?;
        // "The ServerNameList MUST NOT contain more than one name of the same name_type."
        if kind == NAME_TYPE_HOST && name.replace(host_name(value.0).ok_or_else(malformed)?).is_some() {
            return Err(malformed());
        }
    }
    Ok(name)
}

/// A host name as it is compared. Names are "without a trailing dot", but clients have been seen to send it.
fn host_name(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:".contains(byte);
    if bytes.is_empty() || bytes.len() > NAME_BYTES_MAX || !bytes.iter().all(plain) {
        return None;
    }
    Some(std::str::from_utf8(bytes).ok()?.to_ascii_lowercase())
}

fn alpn(mut content: Fields<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = content.vector_u16()?;
    if !content.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.vector_u8().filter(|name| !name.0.is_empty())?;
        names.push(name.0.to_vec());
    }
    Some(names)
}

/// Bytes that are read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector_u8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Self)
    }

    fn vector_u16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }
}

#[cfg(test)]
mod tests;
