//! Loads and stores whose element type is not the register's: f32 and f64 by conversion, bf16 and f16 by their bits.
//!
//! Stores round to nearest, ties to even. From f64 the number first becomes the f32 that is rounded to odd (the last
//! bit set where something was lost): rounding that to 16 bits is rounding once.

use selscan_dsl::Op;

use super::code::Code;
use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{Buf, Ix, LoopOp, Reg, Rhs, Stmt};

/// The element as a register like `like`.
pub(super) fn load(code: &mut Code, buf: Buf, ix: Ix, like: Reg) -> Reg {
    let (dtype, ty) = (code.proc.buffer(buf).dtype, code.ty(like));
    match dtype {
        Dtype::F32 => {
            let single = code.set(Ty::F32, Rhs::Load(buf, ix));
            code.op(Ty::F64, LoopOp::Convert, &[single])
        }
        Dtype::F64 => {
            let double = code.set(Ty::F64, Rhs::Load(buf, ix));
            code.op(Ty::F32, LoopOp::Convert, &[double])
        }
        Dtype::Bf16 | Dtype::F16 => {
            let bits = code.set(Ty::I32, Rhs::LoadBits(buf, ix));
            let single = match dtype {
                Dtype::F16 => from_f16(code, bits),
                _ => {
                    let upper = code.shl(bits, 16);
                    code.bits(upper)
                }
            };
            match ty {
                Ty::F64 => code.op(Ty::F64, LoopOp::Convert, &[single]),
                _ => single,
            }
        }
    }
}

/// Stores the register, rounded to the element's type.
pub(super) fn store(code: &mut Code, buf: Buf, ix: Ix, reg: Reg) {
    let (dtype, ty) = (code.proc.buffer(buf).dtype, code.ty(reg));
    match dtype {
        Dtype::F32 => {
            let single = code.op(Ty::F32, LoopOp::Convert, &[reg]);
            code.push(Stmt::Store(buf, ix, single));
        }
        Dtype::F64 => {
            let double = code.op(Ty::F64, LoopOp::Convert, &[reg]);
            code.push(Stmt::Store(buf, ix, double));
        }
        Dtype::Bf16 | Dtype::F16 => {
            let single = if ty == Ty::F64 {
                round_to_odd(code, reg)
            } else {
                reg
            };
            let bits = match dtype {
                Dtype::F16 => to_f16(code, single),
                _ => to_bf16(code, single),
            };
            code.push(Stmt::StoreBits(buf, ix, bits));
        }
    }
}

fn is_nan(code: &mut Code, x: Reg) -> Reg {
    code.compare(Op::Ne, x, x)
}

/// The f32 toward 0 of an f64, its last bit set if they differ.
fn round_to_odd(code: &mut Code, x: Reg) -> Reg {
    let near = code.op(Ty::F32, LoopOp::Convert, &[x]);
    let back = code.op(Ty::F64, LoopOp::Convert, &[near]);
    let (size, exact_size) = (code.abs(back), code.abs(x));
    let (zero, one) = (code.int(near, 0), code.int(near, 1));
    let beyond = code.compare(Op::Lt, exact_size, size);
    let excess = code.select(beyond, one, zero);
    let inexact = code.compare(Op::Ne, back, x);
    let sticky = code.select(inexact, one, zero);
    let bits = code.bits(near);
    let toward_zero = code.isub(bits, excess);
    let odd = code.or(toward_zero, sticky);
    code.bits(odd)
}

/// The upper half, after adding just under half of its last place, or half where it is odd.
fn to_bf16(code: &mut Code, x: Reg) -> Reg {
    let bits = code.bits(x);
    let one = code.int(x, 1);
    let upper = code.shr(bits, 16);
    let odd = code.and(upper, one);
    let under_half = code.int(x, 0x7fff);
    let sum = code.iadd(bits, under_half);
    let sum = code.iadd(sum, odd);
    let rounded = code.shr(sum, 16);
    let quiet = code.int(x, 0x40);
    let nan = code.or(upper, quiet);
    let is_nan = is_nan(code, x);
    code.select(is_nan, nan, rounded)
}

/// Its exponent and mantissa, moved to their places, are 2⁻¹¹² of the number; above the largest they are ∞ or NaN.
fn from_f16(code: &mut Code, bits: Reg) -> Reg {
    let magnitude = code.int(bits, 0x7fff);
    let magnitude = code.and(bits, magnitude);
    let placed = code.shl(magnitude, 13);
    let small = code.bits(placed);
    let scale = code.float(small, 112f64.exp2());
    let number = code.mul(small, scale);
    let top = code.float(small, 65536.0);
    let finite = code.compare(Op::Lt, number, top);
    let exponent = code.int(bits, 0x7f80_0000);
    let special = code.or(placed, exponent);
    let number = code.bits(number);
    let value = code.select(finite, number, special);
    let sign = code.int(bits, 0x8000);
    let sign = code.and(bits, sign);
    let sign = code.shl(sign, 16);
    let signed = code.or(value, sign);
    code.bits(signed)
}

/// Normal numbers: the exponent rebiased, the mantissa rounded in the integer. Subnormal ones: adding 1/2 moves the
/// last place of an f16 to that of the sum. From 65520 on: ∞.
fn to_f16(code: &mut Code, x: Reg) -> Reg {
    let bits = code.bits(x);
    let size = code.abs(x);
    let size_bits = code.bits(size);

    let one = code.int(x, 1);
    let place = code.shr(size_bits, 13);
    let odd = code.and(place, one);
    let rebias = code.int(x, 0xc800_0fff);
    let sum = code.iadd(size_bits, rebias);
    let sum = code.iadd(sum, odd);
    let normal = code.shr(sum, 13);

    let half = code.float(x, 0.5);
    let sum = code.add(size, half);
    let (sum, half_bits) = (code.bits(sum), code.bits(half));
    let subnormal = code.isub(sum, half_bits);

    let smallest = code.float(x, (-14f64).exp2());
    let is_subnormal = code.compare(Op::Lt, size, smallest);
    let finite = code.select(is_subnormal, subnormal, normal);
    let limit = code.float(x, 65520.0);
    let is_finite = code.compare(Op::Lt, size, limit);
    let infinity = code.int(x, 0x7c00);
    let value = code.select(is_finite, finite, infinity);
    let nan = code.int(x, 0x7e00);
    let is_nan = is_nan(code, x);
    let value = code.select(is_nan, nan, value);

    let sign = code.shr(bits, 16);
    let mask = code.int(x, 0x8000);
    let sign = code.and(sign, mask);
    code.or(value, sign)
}
