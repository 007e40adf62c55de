//! Checks a syntax tree and gives it its meaning.
//!
//! In: [`Kernel`]. Out: a [`Recurrence`], [ordered](Recurrence::ordered), or every mistake with its place, what was wanted and
//! found, and what to do. One mistake gives one error: a value that is wrong is poison, and nothing
//! is said of what is made from it.
//!
//! Names: a `let` may take the name of an input or of an earlier `let`, which it hides from there on; a state's
//! name stays the state's. A name that begins with `_` may stay unused. `delay` runs with the kernel: in a
//! `reverse` kernel `delay(x, 1)` is x at t + 1.

mod builtin;
mod call;
mod declare;
mod expr;
mod finish;
mod remap;
mod statement;

use proc_macro2::TokenStream;

use crate::axis::{AxisId, AxisSet};
use crate::diagnostic::{Diagnostics, Loc, ParseError, SpannedDiagnostic};
use crate::expr::{Graph, InputId, NodeId, StateId};
use crate::recurrence::Recurrence;
use crate::syntax::{self, Kernel, Name};

impl Recurrence {
    /// Parses and checks the text of one kernel, a function with or without `#[ssm_kernel]`.
    ///
    /// # Errors
    /// Every mistake in the text, and a text that does not hold exactly one kernel ([`parse_file`]).
    pub fn parse(text: &str) -> Result<Recurrence, ParseError> {
        let mut kernels = parse_file(text)?;
        let one = kernels.pop();
        match one {
            Some(one) if kernels.is_empty() => Ok(one),
            _ => {
                let mut out = Diagnostics::default();
                let many = kernels.len() + usize::from(one.is_some());
                out.error(
                    Loc::nowhere(),
                    format!("expected one kernel, found {many}"),
                    "parse a file of several kernels with `parse_file`",
                );
                Err(out.into_error())
            }
        }
    }
}

/// Parses and checks a file: the functions marked `#[ssm_kernel]`, or all functions where none is marked.
///
/// # Errors
/// Every mistake in the text.
pub fn parse_file(text: &str) -> Result<Vec<Recurrence>, ParseError> {
    let mut out = Diagnostics::default();
    let Some(tokens) = syntax::tokenize(text, &mut out) else {
        return Err(out.into_error());
    };
    let mut kernels = Vec::new();
    for kernel in syntax::parse_kernels(tokens, &mut out) {
        kernels.extend(check(&kernel, &mut out));
    }
    if out.is_empty() {
        Ok(kernels)
    } else {
        Err(out.into_error())
    }
}

/// Parses a file without checking what its kernels mean.
///
/// # Errors
/// Every mistake of syntax.
pub fn parse_syntax(text: &str) -> Result<Vec<Kernel>, ParseError> {
    let mut out = Diagnostics::default();
    let kernels = syntax::tokenize(text, &mut out).map(|t| syntax::parse_kernels(t, &mut out));
    match kernels {
        Some(kernels) if out.is_empty() => Ok(kernels),
        _ => Err(out.into_error()),
    }
}

/// Parses and checks the function `item` under `#[ssm_kernel(attr)]`.
///
/// # Errors
/// Every mistake, at its tokens.
pub fn check_tokens(
    attr: TokenStream,
    item: TokenStream,
) -> Result<(Kernel, Recurrence), Vec<SpannedDiagnostic>> {
    let mut out = Diagnostics::default();
    let checked = syntax::parse_tokens(attr, item, &mut out).and_then(|kernel| {
        let recurrence = check(&kernel, &mut out)?;
        Some((kernel, recurrence))
    });
    match checked {
        Some(both) if out.is_empty() => Ok(both),
        _ => Err(out.into_list()),
    }
}

/// The recurrence of a kernel; `None` after a mistake, here or in its syntax.
fn check(kernel: &Kernel, out: &mut Diagnostics) -> Option<Recurrence> {
    let syntax_is_right = out.is_empty();
    let mut checker = Checker {
        kernel,
        out,
        syntax_is_right,
        r: Recurrence {
            name: kernel.name.text.clone(),
            doc: kernel.doc.clone(),
            axes: Vec::new(),
            time: AxisId(0),
            inputs: Vec::new(),
            states: Vec::new(),
            outputs: Vec::new(),
            graph: Graph::new(AxisId(0)),
        },
        named_axes: AxisSet::EMPTY,
        wrong_axes: AxisSet::EMPTY,
        scope: Vec::new(),
        assigned: Vec::new(),
        order: Vec::new(),
        delays: Vec::new(),
        backward: kernel.options.reverse.is_some(),
        inlined: None,
    };
    checker.declare()?;
    let params = checker.scope.clone();
    let values = checker.body();
    checker.unused();
    let values = checker.both_ways(values?, params)?;
    checker.finish(&values)
}

/// What a name stands for.
#[derive(Clone)]
enum Meaning {
    Input(InputId),
    State(StateId),
    Let(Value),
    Poison,
}

/// A name in scope.
#[derive(Clone)]
struct Binding {
    name: Name,
    meaning: Meaning,
    used: bool,
}

/// What an expression stands for.
#[derive(Clone)]
enum Value {
    Node(NodeId),
    Tuple(Vec<Value>),
    /// A mistake that has been reported.
    Poison,
}

/// The steps back of one value: `states[k − 1]` holds it k steps late.
struct Delay {
    x: NodeId,
    states: Vec<StateId>,
}

struct Checker<'a> {
    kernel: &'a Kernel,
    out: &'a mut Diagnostics,
    /// Where syntax is wrong, statements are missing: names may then seem unknown or unused.
    syntax_is_right: bool,
    r: Recurrence,
    /// Axes that a function's `::<…>` names.
    named_axes: AxisSet,
    /// Axes whose declarations are wrong, as has been reported.
    wrong_axes: AxisSet,
    /// Names, the innermost last.
    scope: Vec<Binding>,
    /// Where each state is assigned.
    assigned: Vec<Option<Loc>>,
    /// States in the order of their assignments.
    order: Vec<StateId>,
    delays: Vec<Delay>,
    /// Whether states without a direction of their own run backward.
    backward: bool,
    /// The call whose body is being read.
    inlined: Option<Loc>,
}

impl Checker<'_> {
    /// Reports a mistake; inside a function's body, at its call.
    fn error(&mut self, loc: Loc, message: impl Into<String>, help: impl Into<String>) {
        self.out.error(self.inlined.unwrap_or(loc), message, help);
    }

    /// The axes as a message shows them.
    fn show(&self, axes: AxisSet) -> String {
        let names: Vec<String> = axes
            .iter()
            .map(|a| format!("`{}`", self.r.axis_name(a)))
            .collect();
        names.join(", ")
    }

    /// The innermost binding of a name.
    fn binding(&mut self, name: &str) -> Option<&mut Binding> {
        self.scope.iter_mut().rev().find(|b| b.name.text == name)
    }

    fn bind(&mut self, name: Name, meaning: Meaning) {
        self.scope.push(Binding {
            name,
            meaning,
            used: false,
        });
    }
}

#[cfg(test)]
mod tests;
