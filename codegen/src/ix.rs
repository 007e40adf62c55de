//! Integer expressions: where an element lies, how long a buffer is, how far a loop runs.
//!
//! In: loop variables and run-time extents. Out: [`Ix`], 64-bit arithmetic that folds constants as it is built and
//! keeps them on the right, and what can be asked of it: its value, its step, a number that divides it.

use selscan_dsl::AxisId;
use serde::{Deserialize, Serialize};

use crate::loop_ir::Var;

/// An integer expression, 64 bits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Ix {
    /// An integer.
    Const(i64),
    /// A loop variable.
    Var(Var),
    /// A run-time extent, by axis.
    Extent(AxisId),
    /// Sum.
    Add(Box<Ix>, Box<Ix>),
    /// Difference.
    Sub(Box<Ix>, Box<Ix>),
    /// Product.
    Mul(Box<Ix>, Box<Ix>),
    /// Quotient, rounded down; operands are never negative, the divisor never 0.
    Div(Box<Ix>, Box<Ix>),
    /// The smaller one.
    Min(Box<Ix>, Box<Ix>),
}

impl From<i64> for Ix {
    fn from(value: i64) -> Self {
        Ix::Const(value)
    }
}
impl From<Var> for Ix {
    fn from(var: Var) -> Self {
        Ix::Var(var)
    }
}

impl std::ops::Add for Ix {
    type Output = Ix;
    fn add(self, rhs: Ix) -> Ix {
        match (self, rhs) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a + b),
            (Ix::Const(0), x) | (x, Ix::Const(0)) => x,
            // Constants drift to the right, where a backend finds them as an immediate offset.
            (Ix::Add(a, c), Ix::Const(k)) if matches!(*c, Ix::Const(_)) => *a + (*c + Ix::Const(k)),
            (Ix::Add(a, c), b) if matches!(*c, Ix::Const(_)) => (*a + b) + *c,
            (a, Ix::Add(b, c)) if matches!(*c, Ix::Const(_)) => (a + *b) + *c,
            (Ix::Const(k), b) => Ix::Add(Box::new(b), Box::new(Ix::Const(k))),
            (a, b) => Ix::Add(Box::new(a), Box::new(b)),
        }
    }
}
impl std::ops::Sub for Ix {
    type Output = Ix;
    fn sub(self, rhs: Ix) -> Ix {
        match (self, rhs) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a - b),
            (x, Ix::Const(0)) => x,
            (a, b) if a == b => Ix::Const(0),
            (a, Ix::Add(b, c)) if matches!(*c, Ix::Const(_)) => (a - *b) + (Ix::Const(0) - *c),
            (a, b) => Ix::Sub(Box::new(a), Box::new(b)),
        }
    }
}
impl std::ops::Mul for Ix {
    type Output = Ix;
    fn mul(self, rhs: Ix) -> Ix {
        match (self, rhs) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a * b),
            (Ix::Const(0), _) | (_, Ix::Const(0)) => Ix::Const(0),
            (Ix::Const(1), x) | (x, Ix::Const(1)) => x,
            (Ix::Add(a, c), Ix::Const(k)) if matches!(*c, Ix::Const(_)) => {
                *a * Ix::Const(k) + *c * Ix::Const(k)
            }
            (a, b) => Ix::Mul(Box::new(a), Box::new(b)),
        }
    }
}
impl std::ops::Div for Ix {
    type Output = Ix;
    fn div(self, rhs: Ix) -> Ix {
        match (self, rhs) {
            (Ix::Const(a), Ix::Const(b)) if b > 0 => Ix::Const(a / b),
            (x, Ix::Const(1)) => x,
            (a, b) => Ix::Div(Box::new(a), Box::new(b)),
        }
    }
}

impl Ix {
    /// The smaller of two.
    #[must_use]
    pub fn min(self, rhs: Ix) -> Ix {
        match (self, rhs) {
            (Ix::Const(a), Ix::Const(b)) => Ix::Const(a.min(b)),
            (a, b) if a == b => a,
            (a, b) => Ix::Min(Box::new(a), Box::new(b)),
        }
    }
    /// ⌈self / by⌉ for `by` > 0.
    #[must_use]
    pub fn div_ceil(self, by: i64) -> Ix {
        (self + Ix::Const(by - 1)) / Ix::Const(by)
    }
    /// self modulo `n` > 0.
    #[must_use]
    pub fn rest(&self, n: i64) -> Ix {
        self.clone() - self.clone() / Ix::Const(n) * Ix::Const(n)
    }
    /// The run-time extents in it, in order of occurrence.
    #[must_use]
    pub fn extents(&self) -> Vec<AxisId> {
        match self {
            Ix::Const(_) | Ix::Var(_) => Vec::new(),
            Ix::Extent(axis) => vec![*axis],
            Ix::Add(a, b) | Ix::Sub(a, b) | Ix::Mul(a, b) | Ix::Div(a, b) | Ix::Min(a, b) => {
                [a.extents(), b.extents()].concat()
            }
        }
    }
    /// Whether `var` occurs in it.
    #[must_use]
    pub fn mentions(&self, var: Var) -> bool {
        match self {
            Ix::Const(_) | Ix::Extent(_) => false,
            Ix::Var(v) => *v == var,
            Ix::Add(a, b) | Ix::Sub(a, b) | Ix::Mul(a, b) | Ix::Div(a, b) | Ix::Min(a, b) => {
                a.mentions(var) || b.mentions(var)
            }
        }
    }
    /// The same with an expression in place of a variable.
    #[must_use]
    pub fn substitute(&self, var: Var, with: &Ix) -> Ix {
        let of = |ix: &Ix| ix.substitute(var, with);
        match self {
            Ix::Var(v) if *v == var => with.clone(),
            Ix::Const(_) | Ix::Var(_) | Ix::Extent(_) => self.clone(),
            Ix::Add(a, b) => of(a) + of(b),
            Ix::Sub(a, b) => of(a) - of(b),
            Ix::Mul(a, b) => of(a) * of(b),
            Ix::Div(a, b) => of(a) / of(b),
            Ix::Min(a, b) => of(a).min(of(b)),
        }
    }
    /// How much it grows when `var` grows by 1: `Some(k)` if that is the constant k everywhere.
    #[must_use]
    pub fn step_in(&self, var: Var) -> Option<i64> {
        if !self.mentions(var) {
            return Some(0);
        }
        match self {
            Ix::Var(_) => Some(1),
            Ix::Add(a, b) => Some(a.step_in(var)? + b.step_in(var)?),
            Ix::Sub(a, b) => Some(a.step_in(var)? - b.step_in(var)?),
            Ix::Mul(a, b) => match (&**a, &**b) {
                (Ix::Const(k), x) | (x, Ix::Const(k)) => Some(k * x.step_in(var)?),
                _ => None,
            },
            Ix::Const(_) | Ix::Extent(_) | Ix::Div(..) | Ix::Min(..) => None,
        }
    }
    /// Its value; `None` on overflow or division by zero.
    #[must_use]
    pub fn eval(&self, vars: &dyn Fn(Var) -> i64, extents: &dyn Fn(AxisId) -> i64) -> Option<i64> {
        Some(match self {
            Ix::Const(k) => *k,
            Ix::Var(v) => vars(*v),
            Ix::Extent(axis) => extents(*axis),
            Ix::Add(a, b) => a.eval(vars, extents)?.checked_add(b.eval(vars, extents)?)?,
            Ix::Sub(a, b) => a.eval(vars, extents)?.checked_sub(b.eval(vars, extents)?)?,
            Ix::Mul(a, b) => a.eval(vars, extents)?.checked_mul(b.eval(vars, extents)?)?,
            Ix::Div(a, b) => a.eval(vars, extents)?.checked_div(b.eval(vars, extents)?)?,
            Ix::Min(a, b) => a.eval(vars, extents)?.min(b.eval(vars, extents)?),
        })
    }
    /// A number that divides it whatever the variables are, given one for each variable and extent.
    #[must_use]
    pub fn divisor(&self, vars: &dyn Fn(Var) -> i64, extents: &dyn Fn(AxisId) -> i64) -> i64 {
        let of = |ix: &Ix| ix.divisor(vars, extents);
        match self {
            Ix::Const(k) => k.abs(),
            Ix::Var(v) => vars(*v),
            Ix::Extent(axis) => extents(*axis),
            Ix::Add(a, b) | Ix::Sub(a, b) | Ix::Min(a, b) => gcd(of(a), of(b)),
            // A multiple beyond what any access needs is as good as any.
            Ix::Mul(a, b) => of(a).saturating_mul(of(b)).min(1 << 40),
            Ix::Div(..) => 1,
        }
    }
}

/// The greatest common divisor; that of 0 and x is x.
pub(crate) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
