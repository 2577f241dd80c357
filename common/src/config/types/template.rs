//! Texts with variables, of which redirects, rewritten paths and values of header fields are made.

use std::fmt;

/// A text with variables in braces, such as `https://{host}/new/{rest}`; `{{` stands for a brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

/// What a variable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variable {
    /// `{scheme}`: `http` or `https`, as the client asked.
    Scheme,
    /// `{host}`: the host that the client asked for, without a port.
    Host,
    /// `{port}`: the port that the client came to.
    Port,
    /// `{path}`: the whole path.
    Path,
    /// `{rest}`: what follows `path_prefix`, without slashes at its begin.
    Rest,
    /// `{query}`: the query with its `?`, or nothing.
    Query,
    /// `{client_ip}`: the client's address, as a trusted proxy in front names it if one does. This and what follows is escaped in addresses,
    /// and is not what a host is made of.
    ClientIp,
    /// `{method}`: the method.
    Method,
    /// `{request_id}`: what `X-Request-ID` tells targets.
    RequestId,
    /// `{tls_version}`: `1.2` or `1.3`, or nothing in clear text.
    TlsVersion,
    /// `{tls_sni}`: the name that the client asked for in its TLS handshake, or nothing.
    TlsSni,
    /// `{client_cert_subject}`: whose the client's certificate is (RFC 4514), or nothing.
    ClientCertSubject,
    /// `{client_cert_sha256}`: the SHA-256 of the client's certificate in hexadecimal, or nothing.
    ClientCertSha256,
    /// `{0}` to `{9}`: what `path_regex` found: all of it, and its groups.
    Capture(u8),
}

/// Those that have a name.
static NAMED: [(&str, Variable); 13] = [
    ("scheme", Variable::Scheme),
    ("host", Variable::Host),
    ("port", Variable::Port),
    ("path", Variable::Path),
    ("rest", Variable::Rest),
    ("query", Variable::Query),
    ("client_ip", Variable::ClientIp),
    ("method", Variable::Method),
    ("request_id", Variable::RequestId),
    ("tls_version", Variable::TlsVersion),
    ("tls_sni", Variable::TlsSni),
    ("client_cert_subject", Variable::ClientCertSubject),
    ("client_cert_sha256", Variable::ClientCertSha256),
];
/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An address or a path.
    Address,
    /// The value of a header field.
    Header,
}

impl Variable {
    fn find(name: &str) -> Option<Self> {
        match name.as_bytes() {
            [digit @ b'0'..=b'9'] => Some(Self::Capture(digit - b'0')),
            _ => NAMED.iter().find(|(its, _)| *its == name).map(|(_, variable)| *variable),
        }
    }

    /// Whether it stands for a part of the address that was asked for, which is written in another one as it is. All else is escaped there.
    #[must_use]
    pub const fn is_of_an_address(self) -> bool {
        matches!(
            self,
            Self::Scheme | Self::Host | Self::Port | Self::Path | Self::Rest | Self::Query | Self::Capture(_)
        )
    }
}

impl Purpose {
    /// All that there is, for people.
    fn all(self) -> String {
        let names = NAMED.iter().map(|(name, _)| format!("{{{name}}}"));
        let names = names.collect::<Vec<_>>().join(", ");
        let literal = match self {
            Self::Address => "",
            Self::Header => "; write \"{{\" for the character itself",
        };
        format!("{names} and {{0}} to {{9}}{literal}")
    }
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace that opens and does not close.
    #[error("a '{{' is never closed; write \"{{{{\" for the character itself")]
    Open,
    /// A brace that closes nothing.
    #[error("a '}}' closes nothing; write \"}}}}\" for the character itself")]
    Closed,
    /// Another name.
    #[error("there is no {{{name}}}; there are {known}")]
    Unknown {
        /// What was written.
        name: String,
        /// What could have been.
        known: String,
    },
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capture(number) => write!(f, "{{{number}}}"),
            other => {
                let named = NAMED.iter().find(|(_, variable)| variable == other);
                write!(f, "{{{}}}", named.map_or("", |(name, _)| *name))
            }
        }
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// Why the text is none.
    pub fn parse(text: &str, purpose: Purpose) -> Result<Self, TemplateError> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, found) = rest.split_at(at);
            plain.push_str(before);
            if let Some(after) = found.strip_prefix("{{").or_else(|| found.strip_prefix("}}")) {
                plain.push_str(&found[..1]);
                rest = after;
                continue;
            }
            let inside = found.strip_prefix('{').ok_or(TemplateError::Closed)?;
            let (name, after) = inside.split_once('}').ok_or(TemplateError::Open)?;
            let variable = Variable::find(name).ok_or_else(|| TemplateError::Unknown {
                name: name.escape_debug().to_string(),
                known: purpose.all(),
            })?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(variable));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The variables in it, in their order.
    pub fn variables(&self) -> impl Iterator<Item = Variable> + '_ {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(*variable),
            Part::Text(_) => None,
        })
    }

    /// The variables before the query and the fragment of an address.
    pub fn variables_of_path(&self) -> impl Iterator<Item = Variable> + '_ {
        let is_before = |part: &&Part| !matches!(part, Part::Text(text) if text.contains(['?', '#']));
        self.parts.iter().take_while(is_before).filter_map(|part| match part {
            Part::Variable(variable) => Some(*variable),
            Part::Text(_) => None,
        })
    }

    /// The text before its first variable; all of it if there is none.
    #[must_use]
    pub fn begin(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// All texts in it, without what stands between them.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Variable(_) => None,
        })
    }

    /// Appends the text with what `write` appends for each variable.
    pub fn expand(&self, out: &mut String, mut write: impl FnMut(Variable, &mut String)) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(variable) => write(*variable, out),
            }
        }
    }
}

/// As it would be written in the file.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Variable(variable) => variable.fmt(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Template {
        Template::parse(text, Purpose::Address).unwrap()
    }

    fn expanded(text: &str) -> String {
        let mut out = String::new();
        parsed(text).expand(&mut out, |variable, out| match variable {
            Variable::Host => out.push_str("shop.example"),
            Variable::Capture(number) => out.push_str(&number.to_string().repeat(2)),
            other => out.push_str(&other.to_string()),
        });
        out
    }

    #[test]
    fn variables_are_replaced_and_doubled_braces_are_one() {
        assert_eq!(expanded("https://{host}/new"), "https://shop.example/new");
        assert_eq!(expanded("/{1}/{9}{0}"), "/11/9900");
        assert_eq!(expanded("/{{host}}/{path}{query}"), "/{host}/{path}{query}");
        assert_eq!(expanded(""), "");
        for text in ["/a/{rest}{{x}}", "{scheme}://{host}:{port}{path}", "plain"] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_template_says_why() {
        let error = |text: &str| Template::parse(text, Purpose::Address).unwrap_err().to_string();
        assert_eq!(error("/{host"), "a '{' is never closed; write \"{{\" for the character itself");
        assert_eq!(error("/host}"), "a '}' closes nothing; write \"}}\" for the character itself");
        assert!(error("/{hots}").starts_with("there is no {hots}; there are {scheme}, {host}"));
        assert!(error("/{10}").starts_with("there is no {10}"));
        assert!(error("/{client}").ends_with(" {client_cert_sha256} and {0} to {9}"));
    }

    #[test]
    fn all_templates_know_the_same() {
        for (name, variable) in NAMED {
            for purpose in [Purpose::Header, Purpose::Address] {
                let template = Template::parse(&format!("a {{{name}}}"), purpose).unwrap();
                assert_eq!(template.variables().collect::<Vec<_>>(), [variable]);
                assert_eq!(template.to_string(), format!("a {{{name}}}"));
            }
        }
        assert!(Variable::Path.is_of_an_address() && Variable::Capture(1).is_of_an_address());
        assert!(!Variable::ClientIp.is_of_an_address() && !Variable::Method.is_of_an_address());
        let error = Template::parse("{\"group\":1}", Purpose::Header).unwrap_err().to_string();
        assert!(
            error.ends_with("{client_cert_sha256} and {0} to {9}; write \"{{\" for the character itself")
        );
        assert_eq!(Template::parse("{{\"group\":1}}", Purpose::Header).unwrap().begin(), "{\"group\":1}");
    }

    #[test]
    fn it_tells_what_is_in_it() {
        let template = parsed("/x/{rest}?{1}");
        assert_eq!(template.begin(), "/x/");
        assert_eq!(template.variables().collect::<Vec<_>>(), [Variable::Rest, Variable::Capture(1)]);
        assert_eq!(template.variables_of_path().collect::<Vec<_>>(), [Variable::Rest]);
        assert_eq!(parsed("/{path}{query}#{host}").variables_of_path().count(), 2);
        assert_eq!(template.texts().collect::<Vec<_>>(), ["/x/", "?"]);
        assert_eq!(parsed("{path}").begin(), "");
    }
}
