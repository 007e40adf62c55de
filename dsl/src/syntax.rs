//! The syntax tree of a kernel's text, with the place of every part.
//!
//! In: tokens. Out: [`Kernel`], whose `Display` prints the text; printing and parsing
//! again gives the same tree. Names and types mean nothing yet: that is [`crate::check`]'s part.
//!
//! ```text
//! kernel ::= doc* #[ssm_kernel(option,*)] vis fn name(param,*) -> type { stmt* expr }
//! option ::= time = T | reverse | bidirectional | N2 = N
//! param  ::= attr* name: type                      attr ::= #[reverse] | #[hidden] | #[init(expr)]
//! type   ::= Tensor<axis,*> | Complex<…> | State<…> | ComplexState<…> | Option<type> | Flag
//! stmt   ::= let name = expr; | let (name,*) = expr; | name = expr;
//! expr   ::= number | name | -expr | expr op expr | (expr,*) | path::<axis,*>(expr,*)
//! op     ::= + - * / < <= > >= == !=
//! ```

mod attribute;
mod expr;
mod parse;
mod print;
mod signature;
mod statement;
mod token;

use crate::diagnostic::Loc;
use crate::op::Op;

pub(crate) use parse::{one_expr, parse_kernels, parse_tokens, tokenize};

/// A name and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Where it stands.
    pub loc: Loc,
}

impl Name {
    /// A name that stands nowhere.
    #[must_use]
    pub fn made(text: impl Into<String>) -> Self {
        Name {
            text: text.into(),
            loc: Loc::nowhere(),
        }
    }
}

/// A kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Kernel {
    /// Its documentation, one entry a line.
    pub doc: Vec<String>,
    /// The arguments of its attribute.
    pub options: Options,
    /// Its visibility.
    pub vis: syn::Visibility,
    /// Its name.
    pub name: Name,
    /// Its parameters in order.
    pub params: Vec<Param>,
    /// The types of its outputs.
    pub outputs: Vec<Type>,
    /// Its statements in order.
    pub body: Vec<Stmt>,
    /// The output's value, or a tuple of them.
    pub tail: Expr,
}

/// The arguments of `#[ssm_kernel(…)]`.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Options {
    /// `time = T`: the name of the time axis, `L` if absent.
    pub time: Option<Name>,
    /// `reverse`: every state runs from the last step to the first.
    pub reverse: Option<Loc>,
    /// `bidirectional`: the sum of the kernel and its reverse.
    pub bidirectional: Option<Loc>,
    /// `N2 = N`: axis N2 has the extent of N.
    pub aliases: Vec<(Name, Name)>,
}

/// A parameter.
#[derive(Clone, PartialEq, Debug)]
pub struct Param {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub ty: Type,
    /// `#[reverse]`: a state that runs from the last step to the first.
    pub reverse: Option<Loc>,
    /// `#[hidden]`: a state that `delay` made.
    pub hidden: Option<Loc>,
    /// `#[init(x)]`: a state's value before the first step where the caller gives none.
    pub init: Option<Expr>,
}

/// A type.
#[derive(Clone, PartialEq, Debug)]
pub struct Type {
    /// What it is a type of.
    pub kind: TypeKind,
    /// Its axes in memory order.
    pub axes: Vec<Name>,
    /// `Option<…>`.
    pub optional: bool,
    /// Where it stands.
    pub loc: Loc,
}

/// The kinds of types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TypeKind {
    /// `Tensor<…>`.
    Tensor,
    /// `Complex<…>`: a complex tensor.
    Complex,
    /// `State<…>`.
    State,
    /// `ComplexState<…>`.
    ComplexState,
    /// `Flag`.
    Flag,
    /// A mistake that has been reported.
    Error,
}

impl TypeKind {
    /// Every kind that can be written, with its name.
    pub(crate) const NAMES: [(&'static str, TypeKind); 5] = [
        ("Tensor", TypeKind::Tensor),
        ("Complex", TypeKind::Complex),
        ("State", TypeKind::State),
        ("ComplexState", TypeKind::ComplexState),
        ("Flag", TypeKind::Flag),
    ];
    /// Its name in the text.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("?", |(name, _)| name)
    }
    /// Whether it is a state.
    #[must_use]
    pub fn is_state(self) -> bool {
        matches!(self, TypeKind::State | TypeKind::ComplexState)
    }
    /// Whether its elements are complex.
    #[must_use]
    pub fn is_complex(self) -> bool {
        matches!(self, TypeKind::Complex | TypeKind::ComplexState)
    }
}

/// A statement.
#[derive(Clone, PartialEq, Debug)]
pub enum Stmt {
    /// `let name = value;` or `let (name, …) = value;`. `_` in a tuple names nothing.
    Let {
        /// The names; several take a tuple apart.
        names: Vec<Name>,
        /// What they stand for.
        value: Expr,
    },
    /// `state = value;`
    Assign {
        /// The state.
        state: Name,
        /// Its next value.
        value: Expr,
    },
}

/// The most levels that an expression may have.
pub(crate) const MAX_HEIGHT: u32 = 200;
/// The most brackets around one token.
pub(crate) const MAX_NESTING: usize = 64;

/// An expression.
#[derive(Clone, PartialEq, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub loc: Loc,
    height: u32,
}

/// The kinds of expressions.
#[derive(Clone, PartialEq, Debug)]
pub enum ExprKind {
    /// A literal; never negative, infinite or NaN.
    Number(f64),
    /// A parameter, a `let` or a constant.
    Name(String),
    /// `-x`.
    Neg(Box<Expr>),
    /// `x + y` and the like: [`Op::Add`] to [`Op::Div`] and comparisons.
    Binary(Op, Box<Expr>, Box<Expr>),
    /// `path::to::function::<A, B>(x, y)`.
    Call {
        /// The function, with its path: `discretize::zoh`.
        function: Name,
        /// The axes between `::<` and `>`.
        axes: Vec<Name>,
        /// The arguments.
        args: Vec<Expr>,
    },
    /// `(x, y)`.
    Tuple(Vec<Expr>),
    /// A mistake that has been reported.
    Error,
}

impl Expr {
    /// An expression at a place.
    #[must_use]
    pub fn new(kind: ExprKind, loc: Loc) -> Self {
        let below = match &kind {
            ExprKind::Number(_) | ExprKind::Name(_) | ExprKind::Error => 0,
            ExprKind::Neg(x) => x.height,
            ExprKind::Binary(_, x, y) => x.height.max(y.height),
            ExprKind::Call { args: xs, .. } | ExprKind::Tuple(xs) => {
                xs.iter().map(|x| x.height).max().unwrap_or(0)
            }
        };
        Expr {
            kind,
            loc,
            height: below + 1,
        }
    }
    /// An expression that stands nowhere.
    #[must_use]
    pub fn made(kind: ExprKind) -> Self {
        Expr::new(kind, Loc::nowhere())
    }
    /// The length of its longest branch; bounded for parsed text, so that no walk overflows the stack.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }
    /// A name.
    #[must_use]
    pub fn name(text: impl Into<String>) -> Self {
        Expr::made(ExprKind::Name(text.into()))
    }
    /// A call.
    #[must_use]
    pub fn call(function: &str, axes: &[&str], args: Vec<Expr>) -> Self {
        Expr::made(ExprKind::Call {
            function: Name::made(function),
            axes: axes.iter().map(|&a| Name::made(a)).collect(),
            args,
        })
    }
    /// Parses a lone expression, for example `exp(a) * exp(b)`.
    ///
    /// # Errors
    /// Every mistake of syntax; names are not looked up.
    pub fn parse(text: &str) -> Result<Expr, crate::ParseError> {
        one_expr(text)
    }
}

/// The infix operations and how they are written.
const INFIX: &[(Op, &str)] = &[
    (Op::Add, "+"),
    (Op::Sub, "-"),
    (Op::Mul, "*"),
    (Op::Div, "/"),
    (Op::Lt, "<"),
    (Op::Le, "<="),
    (Op::Gt, ">"),
    (Op::Ge, ">="),
    (Op::Eq, "=="),
    (Op::Ne, "!="),
];

/// How an infix operation is written; `None` for one that is called by name.
#[must_use]
pub fn symbol(op: Op) -> Option<&'static str> {
    INFIX.iter().find(|(o, _)| *o == op).map(|(_, s)| *s)
}

/// How tightly an infix operation binds; a minus sign binds at [`UNARY`].
fn precedence(op: Op) -> u8 {
    match op {
        Op::Mul | Op::Div => 3,
        Op::Add | Op::Sub => 2,
        _ => 1,
    }
}

/// The precedence of a minus sign.
const UNARY: u8 = 4;
