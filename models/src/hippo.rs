//! HiPPO transition matrices: x' = A x + B u keeps the coefficients of u's past in an orthogonal basis.
//!
//! In: a measure and the number of coefficients. Out: A and B in continuous time ([`transition`]), or their
//! normal-plus-low-rank form A = V (diag(w) − Σ p pᴴ) Vᴴ ([`nplr`]).
//! Gu, Dao, Ermon, Rudra, Ré, "HiPPO", 2020, appendix D (legs, legt, lagt); Gu et al., "How to Train Your HiPPO",
//! 2022 (fout); Gu, Goel, Ré, "S4", 2021, appendix C.1 (the low-rank corrections).

use std::f64::consts::PI;

use num_complex::Complex64 as C64;
use selscan_dsl::Array;

/// What of the past the coefficients remember.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// All of it, uniformly: scaled Legendre polynomials.
    Legs,
    /// A sliding window of length 2: translated Legendre polynomials (the LMU's, up to scaling).
    Legt,
    /// All of it, decaying exponentially: translated Laguerre polynomials.
    Lagt,
    /// A sliding window: truncated Fourier series.
    Fout,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Measure; 4] = [Measure::Legs, Measure::Legt, Measure::Lagt, Measure::Fout];

    /// Its name in the field: `legs`, `legt`, `lagt`, `fout`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Measure::Legs => "legs",
            Measure::Legt => "legt",
            Measure::Lagt => "lagt",
            Measure::Fout => "fout",
        }
    }

    /// A at row `i`, column `j`.
    fn a(self, i: usize, j: usize) -> f64 {
        let (x, y) = (i as f64, j as f64);
        match self {
            Measure::Legs if i == j => -(x + 1.0),
            Measure::Legs if i > j => -((2.0 * x + 1.0) * (2.0 * y + 1.0)).sqrt(),
            Measure::Lagt if i == j => -0.5,
            Measure::Lagt if i > j => -1.0,
            Measure::Legs | Measure::Lagt => 0.0,
            Measure::Legt => {
                let sign = if i < j && (j - i) % 2 == 1 { 0.5 } else { -0.5 };
                sign * ((2.0 * x + 1.0) * (2.0 * y + 1.0)).sqrt()
            }
            Measure::Fout => {
                // Blocks of (cos, sin) turn at the frequency i/2; the window's far end is subtracted.
                let turn = match (i % 2, j % 2) {
                    (1, 0) if i == j + 1 => PI * (j / 2) as f64,
                    (0, 1) if j == i + 1 => -PI * (i / 2) as f64,
                    _ => 0.0,
                };
                turn - self.b(i) * self.b(j)
            }
        }
    }

    /// B at row `i`.
    fn b(self, i: usize) -> f64 {
        match self {
            Measure::Legs => (2.0 * i as f64 + 1.0).sqrt(),
            Measure::Legt => 0.5 * (2.0 * i as f64 + 1.0).sqrt(),
            Measure::Lagt => 1.0,
            Measure::Fout if i == 0 => 1.0,
            Measure::Fout if i.is_multiple_of(2) => 2.0f64.sqrt(),
            Measure::Fout => 0.0,
        }
    }

    /// The rows P with A + Σ P Pᵀ = shift·1 + (a skew-symmetric matrix), and the shift.
    fn correction(self, n: usize) -> (Vec<Vec<f64>>, f64) {
        let row = |p: &dyn Fn(usize) -> f64| (0..n).map(p).collect::<Vec<f64>>();
        match self {
            Measure::Legs => (vec![row(&|i| (i as f64 + 0.5).sqrt())], -0.5),
            Measure::Lagt => (vec![row(&|_| 0.5f64.sqrt())], 0.0),
            Measure::Fout => (vec![row(&|i| self.b(i))], 0.0),
            Measure::Legt => {
                let half = |odd: usize| {
                    row(&|i| {
                        if i % 2 == odd {
                            (i as f64 + 0.5).sqrt()
                        } else {
                            0.0
                        }
                    })
                };
                (vec![half(1), half(0)], 0.0)
            }
        }
    }
}

/// (A `[n, n]`, B `[n]`) in continuous time.
#[must_use]
pub fn transition(measure: Measure, n: usize) -> (Array, Array) {
    let a = (0..n * n).map(|k| measure.a(k / n, k % n)).collect();
    let b = (0..n).map(|i| measure.b(i)).collect();
    (Array::real(&[n, n], a), Array::real(&[n], b))
}

/// A HiPPO matrix as normal plus low rank, one of each pair of conjugate eigenvalues.
#[derive(Clone, PartialEq, Debug)]
pub struct Nplr {
    /// Eigenvalues `[m]` of the normal part, those with a negative imaginary part, the largest one first.
    pub w: Array,
    /// Vᴴ P [rank, m].
    pub p: Array,
    /// Vᴴ B `[m]`.
    pub b: Array,
    /// Eigenvectors, the columns of `[n, m]`. Their phases are free: p and b turn with them.
    pub v: Array,
}

/// A + Σ P Pᵀ = 2 Re(V diag(w) Vᴴ), for n = 2m coefficients.
#[must_use]
pub fn nplr(measure: Measure, m: usize) -> Nplr {
    let n = 2 * m;
    let (rows, shift) = measure.correction(n);
    // −i (A + Σ P Pᵀ − shift) is Hermitian; its eigenvalues are the imaginary parts.
    let hermitian = (0..n)
        .map(|i| {
            (0..n)
                .map(|j| {
                    let low_rank: f64 = rows.iter().map(|p| p[i] * p[j]).sum();
                    let diagonal = if i == j { shift } else { 0.0 };
                    C64::new(0.0, -(measure.a(i, j) + low_rank - diagonal))
                })
                .collect()
        })
        .collect();
    let (values, mut vectors) = eigen(hermitian);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    if let (Some(&x), Some(&y)) = (order.get(m.wrapping_sub(1)), order.get(m))
        && values[x] == 0.0
        && values[y] == 0.0
    {
        // Fout's frequency 0 is a double eigenvalue with real eigenvectors: x + iy and its conjugate are the pair.
        for row in &mut vectors {
            row[x] = (row[x] + row[y] * C64::i()) * 0.5f64.sqrt();
        }
    }
    order.truncate(m);
    let project = |x: &dyn Fn(usize) -> f64| -> Vec<C64> {
        let dot = |&k: &usize| (0..n).map(|i| vectors[i][k].conj() * x(i)).sum();
        order.iter().map(dot).collect()
    };
    let w = order.iter().map(|&k| C64::new(shift, values[k]));
    let v = (0..n).flat_map(|i| order.iter().map(move |&k| (i, k)));
    Nplr {
        w: pairs(&[m], w),
        p: pairs(
            &[rows.len(), m],
            rows.iter().flat_map(|p| project(&|i| p[i])),
        ),
        b: pairs(&[m], project(&|i| measure.b(i)).into_iter()),
        v: pairs(&[n, m], v.map(|(i, k)| vectors[i][k])),
    }
}

fn pairs(shape: &[usize], values: impl Iterator<Item = C64>) -> Array {
    Array::complex(shape, values.flat_map(|z| [z.re, z.im]).collect())
}

/// Eigenvalues and eigenvectors (columns) of a Hermitian matrix: cyclic Jacobi (Golub & Van Loan, §8.5).
fn eigen(mut h: Vec<Vec<C64>>) -> (Vec<f64>, Vec<Vec<C64>>) {
    let n = h.len();
    let unit = |i, j| C64::new(f64::from(u8::from(i == j)), 0.0);
    let mut v: Vec<Vec<C64>> = (0..n)
        .map(|i| (0..n).map(|j| unit(i, j)).collect())
        .collect();
    let norm: f64 = h.iter().flatten().map(C64::norm_sqr).sum();
    // Quadratic convergence: a matrix of any size that fits in memory needs fewer sweeps.
    for _ in 0..60 {
        let off: f64 = (0..n)
            .flat_map(|p| h[p][p + 1..].iter())
            .map(C64::norm_sqr)
            .sum();
        if off <= norm * f64::EPSILON * f64::EPSILON * 1e-4 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut h, &mut v, p, q);
            }
        }
    }
    ((0..n).map(|i| h[i][i].re).collect(), v)
}

/// Makes h[p][q] zero: columns p, q of `h` and `v`, and rows p, q of `h`, are turned into each other.
fn rotate(h: &mut [Vec<C64>], v: &mut [Vec<C64>], p: usize, q: usize) {
    let size = h[p][q].norm();
    if size == 0.0 {
        return;
    }
    let phase = h[p][q] / size;
    let tau = (h[q][q].re - h[p][p].re) / (2.0 * size);
    let t = tau.signum() / (tau.abs() + tau.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = phase * (t * c);
    for row in h.iter_mut().chain(v) {
        let (x, y) = (row[p], row[q]);
        row[p] = x * c - y * s.conj();
        row[q] = x * s + y * c;
    }
    let (above, below) = h.split_at_mut(q);
    for (a, b) in above[p].iter_mut().zip(&mut below[0]) {
        (*a, *b) = (*a * c - *b * s, *a * s.conj() + *b * c);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn z(x: &Array, i: usize) -> C64 {
        C64::new(x.data[2 * i], x.data[2 * i + 1])
    }

    /// Every measure: eigenvectors are orthonormal, 2 Re V w Vᴴ − Σ P Pᵀ gives A back, and 2 Re V b gives B.
    #[test]
    fn the_normal_form_gives_the_matrices_back() {
        for measure in Measure::ALL {
            for m in [1, 2, 5, 16] {
                let n = 2 * m;
                let form = nplr(measure, m);
                let (a, b) = transition(measure, n);
                let v = |i: usize, k: usize| z(&form.v, i * m + k);
                let scale = a.max_abs();
                for i in 0..n {
                    let vb: C64 = (0..m).map(|k| v(i, k) * z(&form.b, k)).sum();
                    assert!(
                        (2.0 * vb.re - b.data[i]).abs() < 1e-12 * scale,
                        "{measure:?} {n}: B"
                    );
                    for j in 0..n {
                        let normal: C64 = (0..m)
                            .map(|k| z(&form.w, k) * v(i, k) * v(j, k).conj())
                            .sum();
                        let rank = form.p.shape[0];
                        let row = |r: usize, i: usize| -> f64 {
                            2.0 * (0..m)
                                .map(|k| v(i, k) * z(&form.p, r * m + k))
                                .sum::<C64>()
                                .re
                        };
                        let low: f64 = (0..rank).map(|r| row(r, i) * row(r, j)).sum();
                        let error = 2.0 * normal.re - low - a.data[i * n + j];
                        assert!(
                            error.abs() < 1e-12 * scale,
                            "{measure:?} {n}: A[{i}, {j}] {error}"
                        );
                    }
                }
            }
        }
    }
}
