//! Initialisations of diagonal state spaces: Gu, Gupta, Goel, Ré, "On the Parameterization and Initialization of
//! Diagonal State Space Models", 2022, section 4.
//!
//! In: the number n of conjugate pairs (half of d_state). Out: A `[n]` in continuous time, of each pair the half
//! with Im ≤ 0, as the reference code keeps it; outputs are then 2 Re Σ C h.

use std::f64::consts::PI;

use selscan_dsl::Array;

use crate::hippo::{Measure, nplr};

/// S4D-Lin (eq. 9): A_k = −1/2 − iπk.
#[must_use]
pub fn lin(n: usize) -> Array {
    with_imaginary(n, |k| -PI * k)
}

/// S4D-Inv (eq. 8): A_k = −1/2 − i (N/π)(N/(2k + 1) − 1), N = 2n.
#[must_use]
pub fn inv(n: usize) -> Array {
    let size = 2.0 * n as f64;
    with_imaginary(n, |k| -size / PI * (size / (2.0 * k + 1.0) - 1.0))
}

/// S4D-LegS (section 4.2): the eigenvalues A `[n]` of the normal part of HiPPO-LegS, and B `[n]` in its eigenbasis
/// (up to the eigenvectors' free phases).
#[must_use]
pub fn legs(n: usize) -> (Array, Array) {
    let form = nplr(Measure::Legs, n);
    (form.w, form.b)
}

fn with_imaginary(n: usize, im: impl Fn(f64) -> f64) -> Array {
    let data = (0..n).flat_map(|k| [-0.5, im(k as f64)]).collect();
    Array::complex(&[n], data)
}
