//! What is wrong with a kernel's text: where, what was wanted and found, and what to do.
//!
//! In: mistakes with token spans, as the parser and the checker find them. Out: [`ParseError`] with lines and
//! columns for text, [`SpannedDiagnostic`]s with spans for the macro.

use std::fmt;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};

/// A place in the text: the spans of its first and last token. All places are equal, so that comparing two
/// syntax trees compares what they say and not where.
#[derive(Clone, Copy)]
pub struct Loc {
    /// The first token.
    pub start: Span,
    /// The last token.
    pub end: Span,
}

impl Loc {
    /// The place of made-up syntax.
    #[must_use]
    pub fn nowhere() -> Self {
        Loc::from(Span::call_site())
    }
    /// The place of a pair of brackets and what they hold.
    pub(crate) fn brackets(span: proc_macro2::extra::DelimSpan) -> Self {
        Loc {
            start: span.open(),
            end: span.close(),
        }
    }
    /// From here to the end of `other`.
    #[must_use]
    pub fn to(self, other: Loc) -> Self {
        Loc {
            start: self.start,
            end: other.end,
        }
    }
}

impl From<Span> for Loc {
    fn from(span: Span) -> Self {
        Loc {
            start: span,
            end: span,
        }
    }
}

impl PartialEq for Loc {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl Eq for Loc {}

impl fmt::Debug for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loc")
    }
}

/// One mistake, at tokens.
#[derive(Clone, Debug)]
pub struct SpannedDiagnostic {
    /// Where.
    pub loc: Loc,
    /// What was wanted and what was found.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl SpannedDiagnostic {
    /// The same mistake by line and column.
    #[must_use]
    pub fn locate(&self) -> Diagnostic {
        let (start, end) = (self.loc.start.start(), self.loc.end.end());
        Diagnostic {
            line: start.line,
            column: start.column + 1,
            end_line: end.line,
            end_column: end.column + 1,
            message: self.message.clone(),
            help: self.help.clone(),
        }
    }

    /// `compile_error!` over the tokens of the mistake.
    #[must_use]
    pub fn to_compile_error(&self) -> TokenStream {
        let place: TokenStream = [self.loc.start, self.loc.end]
            .map(|span| TokenTree::Ident(Ident::new("place", span)))
            .into_iter()
            .collect();
        let text = format!("{}\nhelp: {}", self.message, self.help);
        syn::Error::new_spanned(place, text).to_compile_error()
    }
}

/// One mistake in a text. Lines and columns count from 1, columns in characters; the end is exclusive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// The line of its first character.
    pub line: usize,
    /// The column of its first character.
    pub column: usize,
    /// The line of its end.
    pub end_line: usize,
    /// The column after its last character.
    pub end_column: usize,
    /// What was wanted and what was found.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic {
            line,
            column,
            message,
            help,
            ..
        } = self;
        write!(f, "{line}:{column}: {message}\n  help: {help}")
    }
}

/// Every mistake in a kernel's text, in the order of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The mistakes; at least one.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}

/// Mistakes found so far.
#[derive(Default, Debug)]
pub(crate) struct Diagnostics {
    list: Vec<SpannedDiagnostic>,
}

impl Diagnostics {
    /// Adds a mistake.
    pub(crate) fn error(
        &mut self,
        loc: impl Into<Loc>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.list.push(SpannedDiagnostic {
            loc: loc.into(),
            message: message.into(),
            help: help.into(),
        });
    }
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }
    /// The mistakes in the order in which they were found.
    pub(crate) fn into_list(self) -> Vec<SpannedDiagnostic> {
        self.list
    }
    /// The mistakes in the order of the text.
    pub(crate) fn into_error(self) -> ParseError {
        let mut diagnostics: Vec<_> = self.list.iter().map(SpannedDiagnostic::locate).collect();
        diagnostics.sort_by_key(|d| (d.line, d.column));
        ParseError { diagnostics }
    }
}

/// The candidate closest to `name`, if one is close: at most a third of its letters differ.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (distance(name, c), c))
        .filter(|&(d, c)| d <= limit && d < c.chars().count().max(name.chars().count()))
        .min_by_key(|&(d, _)| d)
        .map(|(_, c)| c)
}

/// The number of letters to insert, delete, replace or swap with the next to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut table = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = usize::from(!a[i - 1].eq_ignore_ascii_case(&b[j - 1]));
                let mut best = (table[(i - 1) * width + j] + 1)
                    .min(table[i * width + j - 1] + 1)
                    .min(table[(i - 1) * width + j - 1] + replace);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(table[(i - 2) * width + j - 2] + 1);
                }
                best
            };
        }
    }
    table[a.len() * width + b.len()]
}
