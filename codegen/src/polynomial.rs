//! Integer expressions as polynomials: the normal form in which two of them can be compared.
//!
//! In: an [`Ix`]. Out: Σ kᵢ·Πⱼ atomᵢⱼ, where an atom is a loop variable, an extent, or a quotient or minimum taken
//! whole. Equal polynomials are equal numbers; the verifier proves widths with it and a backend splits an address
//! into its constant, what each loop adds, and the rest.

use std::collections::BTreeMap;

use selscan_dsl::AxisId;

use crate::loop_ir::{Ix, Var};

/// A factor that is taken as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Atom {
    /// A run-time extent.
    Extent(AxisId),
    /// A loop variable.
    Var(Var),
    /// A quotient or a minimum.
    Other(Ix),
}

impl Atom {
    /// Whether `var` occurs in it.
    #[must_use]
    pub fn mentions(&self, var: Var) -> bool {
        match self {
            Atom::Extent(_) => false,
            Atom::Var(v) => *v == var,
            Atom::Other(ix) => ix.mentions(var),
        }
    }
}

/// A polynomial with integer coefficients: products of atoms, each sorted, and their coefficients, none 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Polynomial(BTreeMap<Vec<Atom>, i64>);

impl Polynomial {
    /// The polynomial of an expression; `None` where a coefficient leaves 64 bits.
    #[must_use]
    pub fn of(ix: &Ix) -> Option<Polynomial> {
        match ix {
            Ix::Const(k) => Some(Polynomial::term(Vec::new(), *k)),
            Ix::Var(v) => Some(Polynomial::term(vec![Atom::Var(*v)], 1)),
            Ix::Extent(a) => Some(Polynomial::term(vec![Atom::Extent(*a)], 1)),
            Ix::Div(..) | Ix::Min(..) => Some(Polynomial::term(vec![Atom::Other(ix.clone())], 1)),
            Ix::Add(a, b) => Polynomial::of(a)?.plus(&Polynomial::of(b)?, 1),
            Ix::Sub(a, b) => Polynomial::of(a)?.plus(&Polynomial::of(b)?, -1),
            Ix::Mul(a, b) => Polynomial::of(a)?.times(&Polynomial::of(b)?),
        }
    }

    fn term(atoms: Vec<Atom>, k: i64) -> Polynomial {
        Polynomial((k != 0).then_some((atoms, k)).into_iter().collect())
    }

    /// self + k·other.
    #[must_use]
    pub fn plus(mut self, other: &Polynomial, k: i64) -> Option<Polynomial> {
        for (atoms, c) in &other.0 {
            let sum = self
                .0
                .get(atoms)
                .copied()
                .unwrap_or(0)
                .checked_add(c.checked_mul(k)?)?;
            if sum == 0 {
                self.0.remove(atoms);
            } else {
                self.0.insert(atoms.clone(), sum);
            }
        }
        Some(self)
    }

    /// self · other.
    #[must_use]
    pub fn times(&self, other: &Polynomial) -> Option<Polynomial> {
        let mut product = Polynomial::default();
        for (a, x) in &self.0 {
            for (b, y) in &other.0 {
                let mut atoms = [a.as_slice(), b.as_slice()].concat();
                atoms.sort();
                product = product.plus(&Polynomial::term(atoms, 1), x.checked_mul(*y)?)?;
            }
        }
        Some(product)
    }

    /// Its value if it is a number.
    #[must_use]
    pub fn constant(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    /// Its products of atoms and their coefficients.
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.0.iter().map(|(atoms, k)| (atoms.as_slice(), *k))
    }

    /// (the terms for which `pick` holds, the others).
    #[must_use]
    pub fn partition(self, pick: impl Fn(&[Atom]) -> bool) -> (Polynomial, Polynomial) {
        let (yes, no) = self.0.into_iter().partition(|(atoms, _)| pick(atoms));
        (Polynomial(yes), Polynomial(no))
    }

    /// How much it grows when `var` grows by 1, if that does not depend on `var`.
    #[must_use]
    pub fn stride(&self, var: Var) -> Option<Polynomial> {
        let mut stride = Polynomial::default();
        for (atoms, k) in self.terms() {
            let (with, without): (Vec<&Atom>, Vec<&Atom>) =
                atoms.iter().partition(|a| a.mentions(var));
            match with.as_slice() {
                [] => {}
                [Atom::Var(_)] => {
                    let rest = without.into_iter().cloned().collect();
                    stride = stride.plus(&Polynomial::term(rest, 1), k)?;
                }
                _ => return None,
            }
        }
        Some(stride)
    }

    /// It with `value` in place of `var`; `None` on overflow or where `var` is inside a quotient or a minimum.
    #[must_use]
    pub fn substitute(&self, var: Var, value: &Polynomial) -> Option<Polynomial> {
        let mut result = Polynomial::default();
        for (atoms, k) in self.terms() {
            let mut product = Polynomial::term(Vec::new(), k);
            for atom in atoms {
                let factor = match atom {
                    Atom::Var(v) if *v == var => value.clone(),
                    atom if atom.mentions(var) => return None,
                    atom => Polynomial::term(vec![atom.clone()], 1),
                };
                product = product.times(&factor)?;
            }
            result = result.plus(&product, 1)?;
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn v(i: u32) -> Ix {
        Ix::Var(Var(i))
    }
    fn e(i: u8) -> Ix {
        Ix::Extent(AxisId(i))
    }
    fn of(ix: &Ix) -> Polynomial {
        Polynomial::of(ix).unwrap()
    }

    #[test]
    fn equal_numbers_have_equal_forms() {
        let a = (v(0) + Ix::Const(3)) * (e(0) + v(1)) - v(1) * v(0);
        let b = e(0) * v(0) + Ix::Const(3) * v(1) + e(0) * Ix::Const(3);
        assert_eq!(of(&a), of(&b));
        assert_eq!(of(&(a.clone() - b)).constant(), Some(0));
        assert_eq!(of(&a).constant(), None);
    }

    #[test]
    fn strides_and_substitution() {
        let ix = (v(0) * e(0) + v(1)) * e(1) + v(2) * Ix::Const(4) + Ix::Const(7);
        assert_eq!(of(&ix).stride(Var(1)), Some(of(&e(1))));
        assert_eq!(of(&ix).stride(Var(2)).unwrap().constant(), Some(4));
        assert_eq!(of(&ix).stride(Var(9)).unwrap().constant(), Some(0));
        assert_eq!(of(&(v(0) * v(0))).stride(Var(0)), None);
        assert_eq!(of(&(v(0) / Ix::Const(2))).stride(Var(0)), None);
        let moved = of(&ix)
            .substitute(Var(2), &of(&(v(3) + Ix::Const(1))))
            .unwrap();
        let by_hand = (v(0) * e(0) + v(1)) * e(1) + v(3) * Ix::Const(4) + Ix::Const(11);
        assert_eq!(moved, of(&by_hand));
    }

    #[test]
    fn overflow_is_seen() {
        assert_eq!(
            Polynomial::of(&(Ix::Mul(Box::new(Ix::Const(i64::MAX)), Box::new(Ix::Const(2))))),
            None
        );
    }
}
