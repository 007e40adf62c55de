//! The error function.
//!
//! |x| < 1: x·P(x²). From there on: 1 − e^(−x²)·Q(|x|), with Q minimax for e^(x²)·erfc(x), weighted by e^(−x²), up to
//! where erf is 1 in the register's precision.

use std::f64::consts::FRAC_2_SQRT_PI;

use selscan_dsl::Op;

use super::code::{Both, Code};
use super::exponential::exp;
use crate::dtype::Ty;
use crate::loop_ir::Reg;

/// erf(√z)/√z on [0, 1]; errors 1.2e-9 and 1.3e-19.
const SMALL_F32: [f64; 7] = [
    1.128_379_165_725_879_7,
    -0.376_126_258_172_426_2,
    0.112_835_850_547_414_5,
    -0.026_853_807_451_932_37,
    0.005_188_318_159_066_313,
    -0.000_801_010_097_120_900_2,
    7.853_528_341_542_828e-5,
];
const SMALL_F64: [f64; 13] = [
    FRAC_2_SQRT_PI,
    -0.376_126_389_031_837_5,
    0.112_837_916_709_548_57,
    -0.026_866_170_645_072_84,
    0.005_223_977_624_780_303,
    -0.000_854_832_697_870_852_9,
    0.000_120_553_310_356_251_91,
    -1.492_559_347_520_337_2e-5,
    1.646_097_229_248_2e-6,
    -1.635_001_949_806_894_2e-7,
    1.465_784_029_240_531_9e-8,
    -1.136_550_925_094_472e-9,
    5.944_990_490_767_638e-11,
];
/// e^(x²)·erfc(x) in x − 2.5 on [1, 4] and x − 3.5 on [1, 6]; weighted errors 1.3e-8 and 4.7e-17.
const LARGE_F32: [f64; 8] = [
    0.210_806_551_668_194,
    -0.074_299_715_668_221_24,
    0.025_157_798_917_043_516,
    -0.007_804_272_621_068_215,
    0.001_966_248_545_424_021_4,
    -0.001_962_172_626_223_351,
    -0.000_800_279_150_445_364_7,
    -0.000_388_872_155_088_151_4,
];
const LARGE_F64: [f64; 20] = [
    0.155_293_655_603_862_35,
    -0.041_323_577_956_410_59,
    0.010_661_132_733_847_667,
    -0.002_673_073_494_930_182,
    0.000_652_694_801_708_523_2,
    -0.000_155_453_035_226_617_93,
    3.618_029_194_443_797e-5,
    -8.285_136_276_520_927e-6,
    1.767_045_411_332_458_6e-6,
    -4.289_413_614_599_903_4e-7,
    1.280_465_350_077_728e-7,
    4.769_670_624_016_041_5e-8,
    4.113_870_619_515_43e-8,
    1.120_429_098_910_307_4e-9,
    -1.133_815_239_655_549_3e-8,
    -8.639_185_223_768_611e-9,
    -3.326_066_833_475_573e-9,
    -7.735_607_113_833_07e-10,
    -1.027_737_655_906_296_1e-10,
    -6.282_682_489_711_989e-12,
];

/// erf x: 1.4 eps.
pub(super) fn erf(code: &mut Code, x: Reg) -> Reg {
    let double = code.ty(x) == Ty::F64;
    let (small, large): (&[f64], &[f64]) = if double {
        (&SMALL_F64, &LARGE_F64)
    } else {
        (&SMALL_F32, &LARGE_F32)
    };
    let magnitude = code.abs(x);
    let end = code.either(x, Both { f32: 4.0, f64: 6.0 });
    let a = code.at_most(end, magnitude);
    let z = code.mul(a, a);

    let p = code.horner(z, small);
    let near = code.mul(p, a);

    let minus = code.neg(z);
    let e = exp(code, minus);
    let center = code.either(
        x,
        Both {
            f32: -2.5,
            f64: -3.5,
        },
    );
    let y = code.add(a, center);
    let q = code.horner(y, large);
    let one = code.float(x, 1.0);
    let eq = code.mul(e, q);
    let far = code.sub(one, eq);

    let is_near = code.compare(Op::Lt, a, one);
    let size = code.select(is_near, near, far);
    let (size, bits) = (code.bits(size), code.bits(x));
    let sign = code.layout(x).sign();
    let sign = code.int(x, sign);
    let sign = code.and(bits, sign);
    let signed = code.or(size, sign);
    code.bits(signed)
}
