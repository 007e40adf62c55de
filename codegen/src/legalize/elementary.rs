//! round, floor, min, max and 1/√x.

use selscan_dsl::Op;

use super::code::Code;
use crate::loop_ir::Reg;

/// (x + 1.5·2²³) − 1.5·2²³ (f64: 2⁵²): the sum has no bits left for a fraction.
pub(super) fn round(code: &mut Code, x: Reg) -> Reg {
    let magic = code.layout(x).magic();
    let magic = code.float(x, magic);
    let t = code.add(x, magic);
    code.sub(t, magic)
}

/// The nearest integer of |x| with x's sign, less 1 where it is above x; x where it has no fraction. Exact.
pub(super) fn floor(code: &mut Code, x: Reg) -> Reg {
    let layout = code.layout(x);
    let whole = code.float(x, layout.ulp_one());
    let magnitude = code.abs(x);
    let sum = code.add(magnitude, whole);
    let near = code.sub(sum, whole);
    let (near, bits) = (code.bits(near), code.bits(x));
    let sign = code.int(x, layout.sign());
    let sign = code.and(bits, sign);
    let signed = code.or(near, sign);
    let near = code.bits(signed);
    let one = code.float(x, 1.0);
    let less = code.sub(near, one);
    let above = code.compare(Op::Lt, x, near);
    let floor = code.select(above, less, near);
    let fractional = code.compare(Op::Lt, magnitude, whole);
    code.select(fractional, floor, x)
}

/// 1/√x: two roundings.
pub(super) fn rsqrt(code: &mut Code, x: Reg) -> Reg {
    let root = code.sqrt(x);
    let one = code.float(x, 1.0);
    code.div(one, root)
}

/// The smaller operand, NaN if either is.
pub(super) fn min(code: &mut Code, a: Reg, b: Reg) -> Reg {
    let less = code.compare(Op::Lt, a, b);
    let smaller = code.select(less, a, b);
    let nan = code.compare(Op::Ne, a, a);
    code.select(nan, a, smaller)
}

/// The larger operand, NaN if either is.
pub(super) fn max(code: &mut Code, a: Reg, b: Reg) -> Reg {
    let less = code.compare(Op::Lt, b, a);
    let larger = code.select(less, a, b);
    let nan = code.compare(Op::Ne, a, a);
    code.select(nan, a, larger)
}
