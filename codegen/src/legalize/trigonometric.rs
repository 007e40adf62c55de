//! sin and cos.
//!
//! x = n·π/2 + r with the integer n nearest to x·2/π; π/2 is subtracted in parts of few bits, so that the first
//! products are exact (Cody & Waite 1980) while |n| < 2¹³ (f64: 2²⁰), with fma always. r then has an absolute error
//! of about eps·|r| + 2⁻²⁴·|n|·2⁻¹¹ (f32, |x| ≤ 10⁴: below 1e-7). n mod 4 chooses ±sin r or ±cos r.
//! Beyond |x| ≈ 2²²·π/2 (f64: 2⁵¹), where neighbouring floats are half a radian or more apart, the result is some
//! number in [−1, 1]. ±∞ and NaN give NaN.

use std::f64::consts::FRAC_2_PI;

use selscan_dsl::Op;

use super::code::{Both, Code};
use crate::dtype::Ty;
use crate::loop_ir::Reg;

/// −π/2 in parts: 11, 11, 11 and 24 bits; 33, 33 and 53 bits.
const PARTS_F32: [f64; 4] = [
    -1.570_312_5,
    -0.000_483_751_296_997_070_3,
    -7.549_533_620_476_723e-8,
    -2.563_344_151_594_519e-12,
];
const PARTS_F64: [f64; 3] = [
    -1.570_796_326_734_125_6,
    -6.077_100_506_303_966e-11,
    -2.022_266_248_795_950_6e-21,
];

/// (sin r/r − 1)/r² and (cos r − 1 + r²/2)/r⁴ on |r| ≤ π/4, in r²; errors 3.6e-9, 9.6e-11 and 2e-21, 5e-20.
const SIN_F32: [f64; 3] = [
    -0.166_666_548_735_220_38,
    0.008_332_173_545_158_06,
    -0.000_195_166_559_862_580_97,
];
const COS_F32: [f64; 3] = [
    0.041_666_646_747_798_73,
    -0.001_388_736_145_105_143_2,
    2.443_773_017_567_351_5e-5,
];
const SIN_F64: [f64; 7] = [
    -0.166_666_666_666_666_66,
    0.008_333_333_333_333_323,
    -0.000_198_412_698_412_549_9,
    2.755_731_921_414_885e-6,
    -2.505_210_490_053_862_4e-8,
    1.605_836_519_302_656e-10,
    -7.578_625_483_259_561e-13,
];
const COS_F64: [f64; 6] = [
    0.041_666_666_666_666_6,
    -0.001_388_888_888_887_399,
    2.480_158_728_939_495_7e-5,
    -2.755_731_432_603_999_4e-7,
    2.087_571_955_999_648_4e-9,
    -1.135_944_874_733_651_7e-11,
];

/// sin x: n = 0, 1, 2, 3 give sin r, cos r, −sin r, −cos r.
pub(super) fn sin(code: &mut Code, x: Reg) -> Reg {
    turn(code, x, 0)
}

/// cos x = sin(x + π/2): one quadrant further.
pub(super) fn cos(code: &mut Code, x: Reg) -> Reg {
    turn(code, x, 1)
}

fn turn(code: &mut Code, x: Reg, quadrants: u64) -> Reg {
    let layout = code.layout(x);
    let double = code.ty(x) == Ty::F64;
    let magic = code.float(x, layout.magic());
    let inverse = code.float(x, FRAC_2_PI);
    let t = code.fma(x, inverse, magic);
    let n = code.sub(t, magic);
    let mut r = x;
    for part in if double {
        &PARTS_F64[..]
    } else {
        &PARTS_F32[..]
    } {
        let part = code.float(x, *part);
        r = code.fma(n, part, r);
    }
    // Where rounding could not reduce x, keep the polynomials in their range.
    let bound = Both { f32: 0.8, f64: 0.8 };
    let high = code.either(x, bound);
    let low = code.either(
        x,
        Both {
            f32: -bound.f32,
            f64: -bound.f64,
        },
    );
    let r = code.at_most(high, r);
    let r = code.at_least(low, r);

    let z = code.mul(r, r);
    let (sin, cos): (&[f64], &[f64]) = if double {
        (&SIN_F64, &COS_F64)
    } else {
        (&SIN_F32, &COS_F32)
    };
    let s = code.horner(z, sin);
    let rz = code.mul(r, z);
    let s = code.fma(s, rz, r);
    let c = code.horner(z, cos);
    let c = code.mul(c, z);
    let minus_half = code.float(x, -0.5);
    let c = code.add(c, minus_half);
    let one = code.float(x, 1.0);
    let c = code.fma(c, z, one);

    let mut quadrant = code.bits(t);
    if quadrants != 0 {
        let more = code.int(x, quadrants);
        quadrant = code.iadd(quadrant, more);
    }
    // The lowest bit of n as the sign of a float that is compared with 0; the next one as the sign of the result.
    let width = if double { 64 } else { 32 };
    let odd = code.shl(quadrant, width - 1);
    let odd = code.or_one(odd, x);
    let zero = code.float(x, 0.0);
    let is_odd = code.compare(Op::Lt, odd, zero);
    let value = code.select(is_odd, c, s);
    let sign = code.int(x, layout.sign());
    let flip = code.shl(quadrant, width - 2);
    let flip = code.and(flip, sign);
    let bits = code.bits(value);
    // Adding the sign bit flips it.
    let flipped = code.iadd(bits, flip);
    code.bits(flipped)
}
