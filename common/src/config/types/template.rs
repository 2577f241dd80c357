//! Texts with variables, of which redirects and rewritten paths are made.

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
    /// `{0}` to `{9}`: what `path_regex` found: all of it, and its groups.
    Capture(u8),
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
    #[error(
        "there is no {{{0}}}; there are {{scheme}}, {{host}}, {{port}}, {{path}}, {{rest}}, {{query}} and {{0}} to {{9}}"
    )]
    Unknown(String),
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "scheme" => Self::Scheme,
            "host" => Self::Host,
            "port" => Self::Port,
            "path" => Self::Path,
            "rest" => Self::Rest,
            "query" => Self::Query,
            _ => match name.as_bytes() {
                [digit @ b'0'..=b'9'] => Self::Capture(digit - b'0'),
                _ => return None,
            },
        })
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Scheme => "scheme",
            Self::Host => "host",
            Self::Port => "port",
            Self::Path => "path",
            Self::Rest => "rest",
            Self::Query => "query",
            Self::Capture(number) => return write!(f, "{{{number}}}"),
        };
        write!(f, "{{{name}}}")
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// Why the text is none.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
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
            let variable = Variable::parse(name)
                .ok_or_else(|| TemplateError::Unknown(name.escape_debug().to_string()))?;
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

    fn expanded(text: &str) -> String {
        let mut out = String::new();
        Template::parse(text).unwrap().expand(&mut out, |variable, out| match variable {
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
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_template_says_why() {
        let error = |text: &str| Template::parse(text).unwrap_err().to_string();
        assert_eq!(error("/{host"), "a '{' is never closed; write \"{{\" for the character itself");
        assert_eq!(error("/host}"), "a '}' closes nothing; write \"}}\" for the character itself");
        assert!(error("/{hots}").starts_with("there is no {hots}; there are {scheme}, {host}"));
        assert!(error("/{10}").starts_with("there is no {10}"));
    }

    #[test]
    fn it_tells_what_is_in_it() {
        let template = Template::parse("/x/{rest}?{1}").unwrap();
        assert_eq!(template.begin(), "/x/");
        assert_eq!(template.variables().collect::<Vec<_>>(), [Variable::Rest, Variable::Capture(1)]);
        assert_eq!(template.texts().collect::<Vec<_>>(), ["/x/", "?"]);
        assert_eq!(Template::parse("{path}").unwrap().begin(), "");
    }
}
