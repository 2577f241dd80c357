//! What is shown of the problems found: position, line, caret, and a guess at what was meant.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::problem::Problem;

/// Rendering stops here; the last line still counts them all.
const SHOWN_MAX: usize = 200;

/// A byte range of the file.
pub(crate) type Span = Range<usize>;

/// One error, with where it is. Made by [`super::parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    problem: Problem,
    span: Span,
    related: Option<(Span, &'static str)>,
    hint: Option<String>,
    line: usize,
    column: usize,
}

impl Diagnostic {
    /// Which message this is: one of [`super::DIAGNOSTIC_CODES`].
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.problem.code()
    }

    /// The sentence after `file:line:col: `.
    #[must_use]
    pub fn message(&self) -> String {
        self.problem.to_string()
    }

    /// The guess at what was meant, when there is a good one.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The line, counted from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// The column, counted from 1 in characters.
    #[must_use]
    pub const fn column(&self) -> usize {
        self.column
    }

    /// The offending bytes of the file.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    fn render(&self, file: &Path, text: &str) -> String {
        let related = self.related.as_ref();
        let start = related.map_or(self.span.start, |(span, _)| span.start.min(self.span.start));
        let end = related.map_or(self.span.start, |(span, _)| span.start.max(self.span.start));
        let start = line_start(text, start);
        let window = &text[start..line_end(text, end)];
        let within = |span: &Span| span.start - start..(span.end - start).min(window.len());
        let mut snippet = Snippet::source(window)
            .line_start(1 + newlines(&text[..start]))
            .annotation(AnnotationKind::Primary.span(within(&self.span)));
        if let Some((span, label)) = related {
            snippet = snippet.annotation(AnnotationKind::Context.span(within(span)).label(*label));
        }
        let mut group = Group::with_level(Level::ERROR).element(snippet);
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(format!("did you mean `{hint}`?")));
        }
        let body = Renderer::plain().render(&[group]);
        format!("{}:{}:{}: {}\n{body}", file.display(), self.line, self.column, self.problem)
    }
}

/// Every error of one file, in the file's order. `Display` shows all of them with their lines, then how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    file: PathBuf,
    text: String,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// The errors in the order of their positions.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// How many there are; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// The file they are about.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in self.list.iter().take(SHOWN_MAX) {
            writeln!(f, "{}\n", diagnostic.render(&self.file, &self.text))?;
        }
        match self.list.len() {
            1 => f.write_str("1 error"),
            count if count > SHOWN_MAX => write!(f, "{count} errors, the first {SHOWN_MAX} are shown"),
            count => write!(f, "{count} errors"),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// Where the readers and checks put what they find.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Diagnostic>,
}

impl Problems {
    /// Notes a problem at a place; what is returned can take a second place and a guess.
    pub(crate) fn add(&mut self, span: Span, problem: Problem) -> Noted<'_> {
        self.list.push(Diagnostic { problem, span, related: None, hint: None, line: 0, column: 0 });
        Noted { list: &mut self.list }
    }

    /// How many were noted so far.
    pub(crate) const fn count(&self) -> usize {
        self.list.len()
    }

    /// `value` if nothing was noted, else all of it in the file's order with positions counted.
    pub(crate) fn finish<T>(mut self, file: &Path, text: &str, value: Option<T>) -> Result<T, Diagnostics> {
        if let (true, Some(value)) = (self.list.is_empty(), value) {
            return Ok(value);
        }
        self.list.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
        let (mut line, mut at) = (1, 0);
        for diagnostic in &mut self.list {
            diagnostic.span = first_line_of(text, &diagnostic.span);
            diagnostic.related =
                diagnostic.related.take().map(|(span, label)| (first_line_of(text, &span), label));
            let start = diagnostic.span.start;
            // Sorted by start, but moving a start to a character's boundary can put it before the one before.
            line += newlines(&text[at.min(start)..start]);
            at = at.max(start);
            diagnostic.line = line;
            diagnostic.column = 1 + text[line_start(text, start)..start].chars().count();
        }
        Err(Diagnostics { file: file.to_owned(), text: text.to_owned(), list: self.list })
    }
}

/// The problem noted last, for what else there is to say about it.
pub(crate) struct Noted<'a> {
    list: &'a mut Vec<Diagnostic>,
}

impl Noted<'_> {
    /// Points at a second place.
    pub(crate) fn related(self, span: Span, label: &'static str) -> Self {
        if let Some(last) = self.list.last_mut() {
            last.related = Some((span, label));
        }
        self
    }

    /// Adds the best guess among `candidates` for `given`, if one is near enough.
    pub(crate) fn guess<'c>(self, given: &str, candidates: impl IntoIterator<Item = &'c str>) -> Self {
        if let Some(last) = self.list.last_mut() {
            last.hint = nearest(given, candidates).map(str::to_owned);
        }
        self
    }
}

/// The candidate that a typing mistake or two away is `given`.
fn nearest<'c>(given: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = given.chars().count();
    // Longer words are no name of ours, and the distance takes quadratic time.
    if length > 64 {
        return None;
    }
    let folded = given.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase().replace('-', "_");
            let distance = strsim::osa_distance(&folded, &other);
            let allowed = (length.max(other.chars().count()) / 3).max(1);
            (distance <= allowed && length > distance).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Text from the file for use in a message: quoted, escaped and shortened.
pub(crate) fn quoted(value: &str) -> String {
    format!("\"{}\"", shortened(value))
}

/// Text from the file for use in a message: escaped and shortened.
pub(crate) fn shortened(value: &str) -> String {
    let mut short: String = value.chars().take(64).flat_map(char::escape_debug).collect();
    if value.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

/// The span on character boundaries within the text and cut at the end of its first line.
fn first_line_of(text: &str, span: &Span) -> Span {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end).max(start);
    let first = text[start..end].find('\n').map_or(end, |newline| start + newline);
    start..first
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline)
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}
