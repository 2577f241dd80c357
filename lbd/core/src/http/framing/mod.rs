//! Where an HTTP/1 message begins and ends (RFC 9112), read so strictly that nobody behind can read it differently.
//!
//! Two servers that disagree on where a request ends let a client hide one request in another's body. So each thing that
//! servers are known to read in more than one way is a [`Fault`]: a lone LF, a folded line, a space before a colon, two lengths,
//! a length beside a transfer coding, a coding that is not exactly `chunked`, a sign or a list where a number belongs.

mod body;
mod fault;
mod head;
mod host;
mod http2;
mod request;
mod response;

pub use body::{BodyReader, Chunks, Decoded};
pub use fault::Fault;
pub use head::{FIELDS_MAX, Field, Scanner, Version};
pub(crate) use head::{members, trim};
pub use host::Authority;
pub use http2::{Pseudo, http2_request, http2_response, http2_trailers};
pub use request::{RequestBody, RequestHead, parse_request};
pub use response::{ResponseBody, ResponseHead, parse_response};
