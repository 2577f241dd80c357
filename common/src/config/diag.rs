//! What is shown of the problems found: position, line, caret, and a guess at what was meant.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

use super::problem::Problem;
use super::types::FileAt;

/// Rendering stops here; the last line still counts them all.
const SHOWN_MAX: usize = 200;

/// Guesses are made for so many errors among so many names: enough for people, and little work in any case.
const GUESSES_MAX: usize = 500;

/// When the lines between two places are more than this, only the first place is shown.
const WINDOW_BYTES_MAX: usize = 8192;

/// Of a longer line only a part is shown.
const LINE_BYTES_MAX: usize = 512;

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
        let own = line_of(text, &self.span);
        let both = self.related.as_ref().and_then(|(span, _)| {
            let other = line_of(text, span);
            let fits = own.len().max(other.len()) <= LINE_BYTES_MAX;
            Some(own.start.min(other.start)..own.end.max(other.end))
                .filter(|both| fits && both.len() <= WINDOW_BYTES_MAX)
        });
        let related = self.related.as_ref().zip(both);
        let mut group = Group::with_level(Level::ERROR);
        let primary = AnnotationKind::Primary;
        match related {
            // Both lines, and between them what is left out.
            Some(((span, label), both)) => {
                let second = AnnotationKind::Context.span(within(span, &both)).label(*label);
                let snippet = snippet(text, &both).annotation(primary.span(within(&self.span, &both)));
                group = group.element(snippet.annotation(second));
            }
            None => {
                let window = around(text, &self.span, own);
                group = group
                    .element(snippet(text, &window).annotation(primary.span(within(&self.span, &window))));
                if let Some((span, label)) = &self.related {
                    let line = 1 + newlines(&text[..span.start]);
                    group = group.element(Level::NOTE.message(format!("{label}: line {line}")));
                }
            }
        }
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

impl Diagnostics {
    /// What is wrong with files that a configuration names: for each the file, and why it cannot be used. None without any.
    #[must_use]
    pub fn of_files<'a>(
        file: &Path,
        text: &str,
        wrong: impl IntoIterator<Item = (&'a FileAt, String)>,
    ) -> Option<Self> {
        let mut problems = Problems::default();
        for (named, why) in wrong {
            let (key, path) = (named.key.to_owned(), shortened(&named.path.display().to_string()));
            problems.add(named.place.0.clone(), Problem::UnusableFile { key, path, why });
        }
        if problems.count() == 0 { None } else { problems.finish(file, text, None::<()>).err() }
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
        let (mut line, mut column, mut at) = (1, 1, 0);
        for diagnostic in &mut self.list {
            diagnostic.span = first_line_of(text, &diagnostic.span);
            diagnostic.related =
                diagnostic.related.take().map(|(span, label)| (first_line_of(text, &span), label));
            // Counted on from the one before: there may be many errors on one long line.
            let passed = &text[at..diagnostic.span.start.max(at)];
            at += passed.len();
            match passed.rfind('\n') {
                Some(newline) => column = passed[newline..].chars().count(),
                None => column += passed.chars().count(),
            }
            line += newlines(passed);
            diagnostic.line = line;
            diagnostic.column = column;
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
        let wanted = self.list.len() <= GUESSES_MAX;
        if let Some(last) = self.list.last_mut().filter(|_| wanted) {
            last.hint = nearest(given, candidates.into_iter().take(GUESSES_MAX)).map(str::to_owned);
        }
        self
    }
}

/// The candidate that a typing mistake or two away is `given`.
fn nearest<'c>(given: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = given.chars().count();
    // Longer words are no name of ours, and the distance takes quadratic time. Numbers are all near each other.
    if length > 64 || !given.contains(char::is_alphabetic) {
        return None;
    }
    let folded = given.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase().replace('-', "_");
            // `intervall` can be meant for `advert_interval`, but a whole word as near is the better guess.
            let parts = other.split('_').filter(|part| part.len() > 3 && part.len() < other.len());
            let near = |other: &str| {
                let distance = strsim::osa_distance(&folded, other);
                let allowed = (length.max(other.chars().count()) / 3).max(1);
                (distance <= allowed && length > 2 * distance).then_some(distance)
            };
            let part = parts.filter_map(near).min().map(|distance| distance + 1);
            near(&other).into_iter().chain(part).min().map(|distance| (distance, candidate))
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

fn snippet<'t>(text: &'t str, window: &Span) -> Snippet<'t, Annotation<'t>> {
    Snippet::source(&text[window.clone()]).line_start(1 + newlines(&text[..window.start]))
}

/// A span as seen from the start of a window.
fn within(span: &Span, window: &Span) -> Span {
    let end = span.end.min(window.end).max(span.start);
    span.start - window.start..end - window.start
}

/// The line in which a span starts.
fn line_of(text: &str, span: &Span) -> Span {
    let end = text[span.start..].find('\n').map_or(text.len(), |newline| span.start + newline);
    line_start(text, span.start)..end
}

/// The span's line, or what is near the span when the line is longer than anybody wants to see.
fn around(text: &str, span: &Span, line: Span) -> Span {
    if line.len() <= LINE_BYTES_MAX {
        return line;
    }
    let start = text.floor_char_boundary(span.start.saturating_sub(80)).max(line.start);
    let end = text.ceil_char_boundary(span.end.min(span.start + 80) + 80).min(line.end);
    start..end
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}
