//! The selective scan that a good engineer writes in half an hour: loops over a block of channels that the compiler
//! vectorises, polynomial `exp` and `log1p`, AVX2 and FMA by `#[target_feature]`, no intrinsics.
//!
//! In: the same [`Problem`] as plain scalar Rust. Out: y, or nothing on a machine without AVX2 and FMA.
// The loops over k are what the compiler vectorises.
#![allow(clippy::needless_range_loop)]

use crate::baseline::Problem;

/// Channels in a block: eight vectors, and the block's states stay in the first-level cache.
const W: usize = 64;

type Block = [f32; W];

/// Writes y; `false`, and nothing written, if this machine has no AVX2 or no FMA.
pub fn selective_scan(p: &Problem<'_>, y: &mut [f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the machine has both features.
        unsafe { scan(p, y) }
        return true;
    }
    let _ = (p, y);
    false
}

/// 2^(x log2 e): x log2 e = i + f, |f| ≤ 1/2; 2^f by a polynomial of degree 5, i into the exponent.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let t = x * std::f32::consts::LOG2_E;
    let t = if t < -126.0 { -126.0 } else { t };
    let t = if t > 126.0 { 126.0 } else { t };
    let i = t + MAGIC;
    let f = t - (i - MAGIC);
    let p = 0.001_339_087f32
        .mul_add(f, 0.009_676_032)
        .mul_add(f, 0.055_503_57)
        .mul_add(f, 0.240_221_08)
        .mul_add(f, std::f32::consts::LN_2)
        .mul_add(f, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(i.to_bits() << 23))
}

/// log(1 + exp(x)) = max(x, 0) + log(1 + e) with e = exp(−|x|) ≤ 1; log(1 + e) = 2 artanh(s), s = e / (2 + e) ≤ 1/3.
#[inline(always)]
fn softplus(x: f32) -> f32 {
    let e = exp(-x.abs());
    let s = e / (2.0 + e);
    let q = s * s;
    let p = (1.0f32 / 13.0)
        .mul_add(q, 1.0 / 11.0)
        .mul_add(q, 1.0 / 9.0)
        .mul_add(q, 1.0 / 7.0)
        .mul_add(q, 0.2)
        .mul_add(q, 1.0 / 3.0)
        .mul_add(q, 1.0);
    (2.0 * s).mul_add(p, if x > 0.0 { x } else { 0.0 })
}

/// A block's worth from `at` on; what is past `end` is 0.
#[inline(always)]
fn load(from: &[f32], at: usize, width: usize) -> Block {
    let mut block = [0.0; W];
    block[..width].copy_from_slice(&from[at..at + width]);
    block
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn scan(p: &Problem<'_>, y: &mut [f32]) {
    let n = p.states;
    let (mut h, mut a) = (vec![[0.0f32; W]; n], vec![[0.0f32; W]; n]);
    for batch in 0..p.batch {
        for first in (0..p.channels).step_by(W) {
            let width = W.min(p.channels - first);
            h.fill([0.0; W]);
            for i in 0..n {
                for k in 0..width {
                    a[i][k] = p.a[(first + k) * n + i];
                }
            }
            let d = load(p.d, first, width);
            let bias = load(p.delta_bias, first, width);
            for step in 0..p.steps {
                let row = batch * p.steps + step;
                let (b, c) = (&p.b[row * n..][..n], &p.c[row * n..][..n]);
                let at = row * p.channels + first;
                let (u, z) = (load(p.u, at, width), load(p.z, at, width));
                let mut delta = load(p.delta, at, width);
                let (mut drive, mut sum) = ([0.0; W], [0.0; W]);
                for k in 0..W {
                    delta[k] = softplus(delta[k] + bias[k]);
                    drive[k] = delta[k] * u[k];
                    sum[k] = d[k] * u[k];
                }
                for i in 0..n {
                    let (a, h) = (&a[i], &mut h[i]);
                    for k in 0..W {
                        h[k] = exp(delta[k] * a[k]).mul_add(h[k], drive[k] * b[i]);
                        sum[k] = c[i].mul_add(h[k], sum[k]);
                    }
                }
                let mut out = [0.0; W];
                for k in 0..W {
                    out[k] = sum[k] * (z[k] / (1.0 + exp(-z[k])));
                }
                y[at..at + width].copy_from_slice(&out[..width]);
            }
        }
    }
}
