//! The fields that a proxy has to know.

use super::framing::Field;

/// A field that is not just passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Keep-Alive`.
    KeepAlive,
    /// `Proxy-Connection`.
    ProxyConnection,
    /// `TE`.
    Te,
    /// `Trailer`.
    Trailer,
    /// `Upgrade`.
    Upgrade,
    /// `HTTP2-Settings`.
    Http2Settings,
    /// `Expect`.
    Expect,
    /// `Via`.
    Via,
    /// `Forwarded`.
    Forwarded,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Host`.
    ForwardedHost,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `X-Request-ID`.
    RequestId,
    /// `Authorization`.
    Authorization,
    /// `Cookie`.
    Cookie,
}

/// With their names in lower case, the shorter ones first.
const ALL: [(&str, Known); 19] = [
    ("te", Known::Te),
    ("via", Known::Via),
    ("host", Known::Host),
    ("expect", Known::Expect),
    ("cookie", Known::Cookie),
    ("trailer", Known::Trailer),
    ("upgrade", Known::Upgrade),
    ("forwarded", Known::Forwarded),
    ("connection", Known::Connection),
    ("keep-alive", Known::KeepAlive),
    ("x-request-id", Known::RequestId),
    ("authorization", Known::Authorization),
    ("content-length", Known::ContentLength),
    ("http2-settings", Known::Http2Settings),
    ("x-forwarded-for", Known::ForwardedFor),
    ("proxy-connection", Known::ProxyConnection),
    ("x-forwarded-host", Known::ForwardedHost),
    ("transfer-encoding", Known::TransferEncoding),
    ("x-forwarded-proto", Known::ForwardedProto),
];

/// The longest name has so many bytes.
const LENGTH_MAX: usize = ALL[ALL.len() - 1].0.len();

/// Where in [`ALL`] names of each length begin, and those of the one before end.
const BEGINS: [usize; LENGTH_MAX + 2] = {
    let mut begins = [0; LENGTH_MAX + 2];
    let (mut length, mut at) = (0, 0);
    while length < begins.len() {
        while at < ALL.len() && ALL[at].0.len() < length {
            at += 1;
        }
        begins[length] = at;
        length += 1;
    }
    begins
};

impl Known {
    /// The field of this name.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        // At most two have a length, and most of those that are asked for have none of these.
        let length = name.len();
        let begin = *BEGINS.get(length)?;
        let end = *BEGINS.get(length + 1)?;
        let same = |(known, _): &&(&str, Self)| name.eq_ignore_ascii_case(known.as_bytes());
        ALL[begin..end].iter().find(same).map(|(_, known)| *known)
    }

    /// Whether the name is another one's but for `_`, or what else is neither letter nor digit, in place of `-`. Servers that hand fields to
    /// programs in variables (CGI, WSGI) take both for the same: see [`common::config::is_same_field`].
    #[must_use]
    pub fn looks_like_one(name: &[u8]) -> bool {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        if name.iter().all(is_plain) {
            return false;
        }
        let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { *byte } else { b'-' };
        let plain: Vec<u8> = name.iter().map(plain).collect();
        Self::of(&plain).is_some() || is_word_of_a_proxy(&plain)
    }

    /// Whether it is for the target whatever `Connection` says: a client that has it taken away on the way deceives the target.
    #[must_use]
    pub const fn is_for_the_target(self) -> bool {
        !matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::Trailer
                | Self::Upgrade
                | Self::Http2Settings
        )
    }

    /// Whether it is about this connection only, or says where the message ends: never passed on as it is.
    #[must_use]
    pub const fn is_for_one_hop(self) -> bool {
        matches!(
            self,
            Self::ContentLength
                | Self::TransferEncoding
                | Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::Upgrade
                | Self::Http2Settings
        )
    }
}

/// Whether a field says whom a request is from or how it came, beside those that are known: targets believe it, so it is passed on only
/// for a proxy whose word is taken.
#[must_use]
pub fn is_word_of_a_proxy(name: &[u8]) -> bool {
    is_beside_lists(name) || is_client_certificate(name)
}

/// Whether a field says such things beside `X-Forwarded-For`: a proxy that does not write that passes these on as its clients make them up.
#[must_use]
pub fn is_beside_lists(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    let begins = name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX));
    begins || name.eq_ignore_ascii_case(b"x-real-ip")
}

/// Whether a field says which certificate a client has shown: one of those that are written here, or of RFC 9440. Section 3.1 there:
/// "the TLS-terminating reverse proxy MUST sanitize" such fields of clients.
#[must_use]
pub fn is_client_certificate(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-client-cert-";
    let begins = name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX));
    begins || name.eq_ignore_ascii_case(b"client-cert") || name.eq_ignore_ascii_case(b"client-cert-chain")
}

/// Whether it is `Proxy`, which nobody has a use for and which programs that get fields in variables (CGI) take for the address of the proxy
/// that their own requests are to go through.
#[must_use]
pub const fn is_proxy(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"proxy")
}

/// Whether a message is part of an authentication that is the connection's and not the request's, as NTLM's and Negotiate's (RFC 4559) are:
/// the next client's requests on the same connection would be taken for those of whoever has proved himself.
#[must_use]
pub fn authenticates_connection(fields: &[Field<'_>]) -> bool {
    const WHERE: [&[u8]; 4] =
        [b"authorization", b"proxy-authorization", b"www-authenticate", b"proxy-authenticate"];
    let names_one = |value: &[u8]| {
        let mut words = value.split(|byte| matches!(byte, b' ' | b'\t' | b','));
        words.any(|word| word.eq_ignore_ascii_case(b"ntlm") || word.eq_ignore_ascii_case(b"negotiate"))
    };
    let says = |name: &[u8]| WHERE.iter().any(|known| name.eq_ignore_ascii_case(known));
    fields.iter().any(|field| says(field.name) && names_one(field.value))
}

/// Whether a field may stand in trailers (RFC 9110, section 6.5.1): nothing that says where a message ends, whom it is for or from, who
/// may have it, or what is to be done with it before it has ended, and nothing for one hop.
#[must_use]
pub fn may_trail(name: &[u8]) -> bool {
    const NEVER: [&str; 23] = [
        "age",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "date",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "retry-after",
        "set-cookie",
        "vary",
        "warning",
        "www-authenticate",
    ];
    let never = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    let known = Known::of(name).is_some() || Known::looks_like_one(name);
    !known && !is_word_of_a_proxy(name) && !is_proxy(name) && !NEVER.iter().any(never)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name_and_no_other_one_is() {
        for (name, known) in ALL {
            assert_eq!(Known::of(name.as_bytes()), Some(known), "{name}");
            assert_eq!(Known::of(&name.as_bytes()[1..]), None, "{name}");
            assert_eq!(Known::of(format!("{name}s").as_bytes()), None, "{name}");
        }
        for length in (0..40).chain([usize::from(u16::MAX)]) {
            assert_eq!(Known::of(&vec![b'q'; length]), None);
        }
    }

    #[test]
    fn fields_are_known_in_any_case() {
        assert_eq!(Known::of(b"CONTENT-length"), Some(Known::ContentLength));
        assert_eq!(Known::of(b"X-Forwarded-For"), Some(Known::ForwardedFor));
        assert_eq!(Known::of(b"te"), Some(Known::Te));
        assert_eq!(Known::of(b"tee"), None);
        assert!(Known::looks_like_one(b"Content_Length") && Known::looks_like_one(b"x_forwarded-for"));
        assert!(!Known::looks_like_one(b"content-length") && !Known::looks_like_one(b"my_field"));
        assert!(Known::looks_like_one(b"X_Forwarded_Port") && Known::looks_like_one(b"x-real_ip"));
        assert!(
            Known::looks_like_one(b"Transfer.Encoding") && Known::looks_like_one(b"x~client!cert*verify")
        );
        assert!(!Known::looks_like_one(b"my.field") && !Known::looks_like_one(b"ho.st"));
    }

    #[test]
    fn what_stands_beside_lists_is_told_from_certificates() {
        for name in ["X-Forwarded-Port", "x-forwarded-Server", "X-Real-IP"] {
            assert!(is_beside_lists(name.as_bytes()) && is_word_of_a_proxy(name.as_bytes()), "{name}");
        }
        for name in ["X-Client-Cert-Verify", "Client-Cert"] {
            assert!(!is_beside_lists(name.as_bytes()) && is_word_of_a_proxy(name.as_bytes()), "{name}");
        }
        assert!(!is_word_of_a_proxy(b"X-Forward") && !is_word_of_a_proxy(b"X-Real-IPs"));
    }

    #[test]
    fn what_frames_routes_or_authorises_never_trails() {
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Host",
            "X-Forwarded-For",
            "Authorization",
            "Set-Cookie",
            "content_length",
            "content.length",
            "X-Forwarded-Port",
            "X-Real-IP",
            "Proxy",
            "Location",
            "Connection",
            "if-match",
        ] {
            assert!(!may_trail(name.as_bytes()), "{name}");
        }
        assert!(may_trail(b"grpc-status") && may_trail(b"X-Checksum") && may_trail(b"ETag"));
    }

    #[test]
    fn connection_may_take_away_what_is_for_one_hop_only() {
        assert!(Known::Host.is_for_the_target() && Known::Cookie.is_for_the_target());
        assert!(!Known::KeepAlive.is_for_the_target() && !Known::Te.is_for_the_target());
        assert!(Known::TransferEncoding.is_for_the_target() && Known::TransferEncoding.is_for_one_hop());
    }
}
