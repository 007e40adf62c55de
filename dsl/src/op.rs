//! The table of scalar operations: name, arity, cost, f64 meaning, slopes, complex meaning, derivative.
//!
//! An operation has no axes: it is applied at every point of the axes that its operands vary over.
//! `slopes` are the absolute partial derivatives, used for the running error bound of [`mod@crate::eval`].

use num_complex::Complex64 as C64;

use crate::expr::Type;

/// A scalar operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)] // the table below documents each
pub enum Op {
    Neg,
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Abs,
    Floor,
    Sqrt,
    Rsqrt,
    Exp,
    Exp2,
    Expm1,
    Phi1,
    Log,
    Log2,
    Sin,
    Cos,
    Tanh,
    Sigmoid,
    Softplus,
    Erf,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
    Select,
    Re,
    Im,
    Conj,
    Complex,
}

/// One row of the table.
pub struct OpInfo {
    /// The operation.
    pub op: Op,
    /// Its name in the syntax; arithmetic and comparisons are written infix.
    pub name: &'static str,
    /// How many operands it takes.
    pub arity: usize,
    /// Its cost in units of one multiplication (8 points of a vectorised CPU or GPU kernel).
    pub cost: u32,
    /// Its meaning on real numbers. Comparisons give 1 or 0.
    pub real: fn(&[f64]) -> f64,
    /// |∂f/∂xᵢ| at real operands, 0 for operands that are conditions.
    pub slopes: fn(&[f64]) -> [f64; 3],
    /// Its meaning on complex numbers, where it has one.
    pub complex: Option<fn(&[C64]) -> C64>,
    /// Its derivative, as the cotangent of each operand in the syntax of kernels: of x, y and z the operands, f the
    /// result and d = (∂L/∂Re f, ∂L/∂Im f) its cotangent. `conj` is the identity on real numbers, and a real
    /// operand takes the real half. Where there is no derivative, what PyTorch takes: half to each of two equal
    /// operands of `min` and `max`, 0 for |x| at 0 and for `floor`. Empty: the result does not change smoothly.
    pub cotangents: &'static [&'static str],
}

/// φ₁(x) = (eˣ − 1)/x, and 1 at 0 (Hochbruck & Ostermann 2010, eq. 2.10).
fn phi1(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { x.exp_m1() / x }
}

/// φ₁ on complex numbers, without cancellation near 0.
fn phi1_complex(z: C64) -> C64 {
    if z == C64::new(0.0, 0.0) {
        C64::new(1.0, 0.0)
    } else {
        expm1_complex(z) / z
    }
}

/// eᶻ − 1 = (expm1(x) cos y − 2 sin²(y/2)) + i eˣ sin y.
fn expm1_complex(z: C64) -> C64 {
    let half = (z.im / 2.0).sin();
    C64::new(
        z.re.exp_m1() * z.im.cos() - 2.0 * half * half,
        z.re.exp() * z.im.sin(),
    )
}

/// φ₁'(x) = (eˣ − φ₁(x))/x, and 1/2 at 0.
fn phi1_slope(x: f64) -> f64 {
    if x.abs() < 1e-4 {
        0.5 + x / 3.0
    } else {
        (x.exp() - phi1(x)) / x
    }
}

/// softplus(x) = ln(1 + eˣ), the identity above 20 (torch.nn.functional.softplus).
fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn truth(b: bool) -> f64 {
    f64::from(u8::from(b))
}

/// The smaller operand; NaN if either is NaN (torch.minimum).
fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

/// The larger operand; NaN if either is NaN (torch.maximum).
fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

const FLAT: fn(&[f64]) -> [f64; 3] = |_| [0.0; 3];

macro_rules! table {
    ($($op:ident $name:literal $arity:literal $cost:literal $real:expr, $slopes:expr, $complex:expr, [$($cotangent:literal),*];)*) => {
        /// Every operation, in the order of [`Op`].
        pub static TABLE: &[OpInfo] = &[
            $(OpInfo { op: Op::$op, name: $name, arity: $arity, cost: $cost, real: $real, slopes: $slopes, complex: $complex, cotangents: &[$($cotangent),*] }),*
        ];
    };
}

#[rustfmt::skip]
table! {
    // op     name       arity cost  meaning                       |slopes|                                       complex meaning, cotangents of the operands
    Neg       "neg"      1     1     |x| -x[0],                    |_| [1.0, 0.0, 0.0],                           Some(|x| -x[0]), ["-d"];
    Add       "add"      2     1     |x| x[0] + x[1],              |_| [1.0, 1.0, 0.0],                           Some(|x| x[0] + x[1]), ["d", "d"];
    Sub       "sub"      2     1     |x| x[0] - x[1],              |_| [1.0, 1.0, 0.0],                           Some(|x| x[0] - x[1]), ["d", "-d"];
    Mul       "mul"      2     1     |x| x[0] * x[1],              |x| [x[1].abs(), x[0].abs(), 0.0],             Some(|x| x[0] * x[1]), ["d * conj(y)", "d * conj(x)"];
    Div       "div"      2     6     |x| x[0] / x[1],              |x| [1.0 / x[1].abs(), (x[0] / (x[1] * x[1])).abs(), 0.0], Some(|x| x[0] / x[1]), ["d / conj(y)", "-d * conj(f / y)"];
    Min       "min"      2     1     |x| min(x[0], x[1]),          |_| [1.0, 1.0, 0.0],                           None, ["select(x < y, d, select(x == y, d / 2, 0))", "select(y < x, d, select(x == y, d / 2, 0))"];
    Max       "max"      2     1     |x| max(x[0], x[1]),          |_| [1.0, 1.0, 0.0],                           None, ["select(x > y, d, select(x == y, d / 2, 0))", "select(y > x, d, select(x == y, d / 2, 0))"];
    Abs       "abs"      1     1     |x| x[0].abs(),               |_| [1.0, 0.0, 0.0],                           Some(|x| C64::new(x[0].norm(), 0.0)), ["select(f == 0, 0, d * (x / f))"];
    Floor     "floor"    1     2     |x| x[0].floor(),             FLAT,                                          None, [];
    Sqrt      "sqrt"     1     6     |x| x[0].sqrt(),              |x| [0.5 / x[0].sqrt(), 0.0, 0.0],             None, ["d / (2 * f)"];
    Rsqrt     "rsqrt"    1     10    |x| 1.0 / x[0].sqrt(),        |x| [0.5 / (x[0] * x[0].sqrt()).abs(), 0.0, 0.0], None, ["-0.5 * d * f * f * f"];
    Exp       "exp"      1     13    |x| x[0].exp(),               |x| [x[0].exp(), 0.0, 0.0],                    Some(|x| x[0].exp()), ["d * conj(f)"];
    Exp2      "exp2"     1     10    |x| x[0].exp2(),              |x| [x[0].exp2() * std::f64::consts::LN_2, 0.0, 0.0], None, ["d * f * LN_2"];
    Expm1     "expm1"    1     20    |x| x[0].exp_m1(),            |x| [x[0].exp(), 0.0, 0.0],                    Some(|x| expm1_complex(x[0])), ["d * conj(exp(x))"];
    Phi1      "phi1"     1     24    |x| phi1(x[0]),               |x| [phi1_slope(x[0]).abs(), 0.0, 0.0],        Some(|x| phi1_complex(x[0])), ["d * conj(phi1_slope(x))"];
    Log       "log"      1     16    |x| x[0].ln(),                |x| [1.0 / x[0].abs(), 0.0, 0.0],              None, ["d / x"];
    Log2      "log2"     1     14    |x| x[0].log2(),              |x| [std::f64::consts::LOG2_E / x[0].abs(), 0.0, 0.0], None, ["d * LOG2_E / x"];
    Sin       "sin"      1     16    |x| x[0].sin(),               |x| [x[0].cos().abs(), 0.0, 0.0],              None, ["d * cos(x)"];
    Cos       "cos"      1     16    |x| x[0].cos(),               |x| [x[0].sin().abs(), 0.0, 0.0],              None, ["-d * sin(x)"];
    Tanh      "tanh"     1     20    |x| x[0].tanh(),              |x| [1.0 - x[0].tanh() * x[0].tanh(), 0.0, 0.0], None, ["d * (1 - f * f)"];
    Sigmoid   "sigmoid"  1     20    |x| sigmoid(x[0]),            |x| [sigmoid(x[0]) * sigmoid(-x[0]), 0.0, 0.0], None, ["d * (f * (1 - f))"];
    Softplus  "softplus" 1     30    |x| softplus(x[0]),           |x| [sigmoid(x[0]), 0.0, 0.0],                 None, ["select(x > 20, d, d * sigmoid(x))"];
    Erf       "erf"      1     24    |x| libm::erf(x[0]),          |x| [std::f64::consts::FRAC_2_SQRT_PI * (-x[0] * x[0]).exp(), 0.0, 0.0], None, ["d * FRAC_2_SQRT_PI * exp(-(x * x))"];
    Lt        "lt"       2     1     |x| truth(x[0] < x[1]),       FLAT,                                          None, [];
    Le        "le"       2     1     |x| truth(x[0] <= x[1]),      FLAT,                                          None, [];
    Gt        "gt"       2     1     |x| truth(x[0] > x[1]),       FLAT,                                          None, [];
    Ge        "ge"       2     1     |x| truth(x[0] >= x[1]),      FLAT,                                          None, [];
    Eq        "eq"       2     1     |x| truth(x[0] == x[1]),      FLAT,                                          None, [];
    Ne        "ne"       2     1     |x| truth(x[0] != x[1]),      FLAT,                                          None, [];
    Select    "select"   3     1     |x| if x[0] != 0.0 { x[1] } else { x[2] }, |x| if x[0] != 0.0 { [0.0, 1.0, 0.0] } else { [0.0, 0.0, 1.0] }, Some(|x| if x[0].re != 0.0 { x[1] } else { x[2] }), ["0", "select(x, d, 0)", "select(x, 0, d)"];
    Re        "re"       1     0     |x| x[0],                     |_| [1.0, 0.0, 0.0],                           Some(|x| C64::new(x[0].re, 0.0)), ["d"];
    Im        "im"       1     0     |_| 0.0,                      FLAT,                                          Some(|x| C64::new(x[0].im, 0.0)), ["complex(0, d)"];
    Conj      "conj"     1     1     |x| x[0],                     |_| [1.0, 0.0, 0.0],                           Some(|x| x[0].conj()), ["conj(d)"];
    Complex   "complex"  2     0     |x| x[0],                     |_| [1.0, 1.0, 0.0],                           Some(|x| C64::new(x[0].re, x[1].re)), ["re(d)", "im(d)"];
}

impl Op {
    /// The operation's row.
    #[must_use]
    pub fn info(self) -> &'static OpInfo {
        &TABLE[self as usize]
    }
    /// Its name in the syntax.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }
    /// How many operands it takes.
    #[must_use]
    pub fn arity(self) -> usize {
        self.info().arity
    }
    /// The operation that a call `name(…)` means.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Op> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.op)
    }
    /// Whether its result is a condition.
    #[must_use]
    pub fn is_comparison(self) -> bool {
        matches!(self, Op::Lt | Op::Le | Op::Gt | Op::Ge | Op::Eq | Op::Ne)
    }
    /// The type of its result; `None` where the operand types do not fit.
    #[must_use]
    pub fn result(self, operands: &[Type]) -> Option<Type> {
        if operands.len() != self.arity() {
            return None;
        }
        let complex = operands.contains(&Type::Complex);
        let bools = operands.iter().filter(|&&t| t == Type::Bool).count();
        match self {
            Op::Select if operands[0] == Type::Bool && bools == 1 => {
                Some(if complex { Type::Complex } else { Type::Real })
            }
            Op::Select => None,
            _ if bools > 0 => None,
            Op::Re | Op::Im | Op::Abs => Some(Type::Real),
            Op::Complex if !complex => Some(Type::Complex),
            Op::Complex => None,
            _ if self.is_comparison() => (!complex).then_some(Type::Bool),
            _ if complex => self.info().complex.map(|_| Type::Complex),
            _ => Some(Type::Real),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_op() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.op as usize, i, "{}", row.name);
        }
    }

    /// The slopes are the derivatives: compared with central differences.
    #[test]
    fn slopes_are_derivatives() {
        for row in TABLE {
            if row.op.is_comparison()
                || matches!(
                    row.op,
                    Op::Select | Op::Floor | Op::Complex | Op::Min | Op::Max | Op::Im
                )
            {
                continue;
            }
            for x in [[0.3, 0.7], [1.9, -0.4], [0.05, 2.5]] {
                let slopes = (row.slopes)(&x);
                for i in 0..row.arity {
                    let (mut lo, mut hi) = (x, x);
                    lo[i] -= 1e-6;
                    hi[i] += 1e-6;
                    let measured = (((row.real)(&hi) - (row.real)(&lo)) / 2e-6).abs();
                    assert!(
                        (measured - slopes[i]).abs() <= 1e-5 * (1.0 + measured),
                        "{} at {x:?}: {measured} {}",
                        row.name,
                        slopes[i]
                    );
                }
            }
        }
    }
}
