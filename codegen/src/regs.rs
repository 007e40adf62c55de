//! Registers: which of them a statement reads and assigns, and [`Regs`], sets of them.
//!
//! In: statements. Out: what passes ask of them, without a walk of their own over every kind of statement.

use crate::loop_ir::{Reg, Rhs, Stmt};

impl Stmt {
    /// The registers that it reads itself: those of the statements in it are theirs.
    #[must_use]
    pub fn reads(&self) -> &[Reg] {
        match self {
            Stmt::Set(_, Rhs::Op(_, args)) => args,
            Stmt::Store(_, _, reg) | Stmt::StoreBits(_, _, reg) => std::slice::from_ref(reg),
            Stmt::StoreRow(_, _, regs) => regs,
            Stmt::Set(
                _,
                Rhs::Const(_) | Rhs::Bits(_) | Rhs::Index(_) | Rhs::Load(..) | Rhs::LoadBits(..),
            )
            | Stmt::For { .. }
            | Stmt::If { .. }
            | Stmt::Let(..)
            | Stmt::LoadRow(..)
            | Stmt::Take(..)
            | Stmt::Fetch(..)
            | Stmt::Prefetch(..)
            | Stmt::Copy(..)
            | Stmt::Sync
            | Stmt::Arrive
            | Stmt::Wait
            | Stmt::Meet => &[],
        }
    }

    /// The registers that it assigns itself.
    #[must_use]
    pub fn writes(&self) -> &[Reg] {
        match self {
            Stmt::Set(reg, _) => std::slice::from_ref(reg),
            Stmt::LoadRow(regs, ..) | Stmt::Take(regs, _) => regs,
            Stmt::For { .. }
            | Stmt::If { .. }
            | Stmt::Let(..)
            | Stmt::Store(..)
            | Stmt::StoreBits(..)
            | Stmt::StoreRow(..)
            | Stmt::Fetch(..)
            | Stmt::Prefetch(..)
            | Stmt::Copy(..)
            | Stmt::Sync
            | Stmt::Arrive
            | Stmt::Wait
            | Stmt::Meet => &[],
        }
    }

    /// The blocks of statements in it, in order.
    #[must_use]
    pub fn blocks(&self) -> [&[Stmt]; 2] {
        match self {
            Stmt::For { body, .. } => [body, &[]],
            Stmt::If { then, els, .. } => [then, els],
            _ => [&[], &[]],
        }
    }
}

/// Calls `f` with every statement of a block, those inside of others after them.
pub fn each<'s>(block: &'s [Stmt], f: &mut impl FnMut(&'s Stmt)) {
    for stmt in block {
        f(stmt);
        for block in stmt.blocks() {
            each(block, f);
        }
    }
}

/// A set of registers, a bit each.
#[derive(Clone, Default, Debug)]
pub struct Regs(Vec<u64>);

impl Regs {
    fn place(reg: Reg) -> (usize, u64) {
        (reg.0 as usize / 64, 1 << (reg.0 % 64))
    }

    /// Adds a register; says whether it is new.
    pub fn insert(&mut self, reg: Reg) -> bool {
        let (word, bit) = Regs::place(reg);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
    /// Whether it has a register.
    #[must_use]
    pub fn contains(&self, reg: Reg) -> bool {
        let (word, bit) = Regs::place(reg);
        self.0.get(word).is_some_and(|w| w & bit != 0)
    }
    /// How many it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }
    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }
    /// Whether `other` has all that it has.
    #[must_use]
    pub fn is_subset(&self, other: &Regs) -> bool {
        let theirs = other.0.iter().copied().chain(std::iter::repeat(0));
        self.0
            .iter()
            .zip(theirs)
            .all(|(own, theirs)| own & !theirs == 0)
    }
    /// Keeps what `other` has too.
    pub fn keep(&mut self, other: &Regs) {
        let theirs = other.0.iter().copied().chain(std::iter::repeat(0));
        self.0.iter_mut().zip(theirs).for_each(|(own, w)| *own &= w);
    }
    /// Takes away what `other` has.
    pub fn remove_all(&mut self, other: &Regs) {
        self.0
            .iter_mut()
            .zip(&other.0)
            .for_each(|(own, w)| *own &= !w);
    }
    /// Its registers in order.
    pub fn iter(&self) -> impl Iterator<Item = Reg> + '_ {
        let bits = |(word, &bits): (usize, &u64)| {
            let mut left = bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(Reg(word as u32 * 64 + bit))
            })
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

impl PartialEq for Regs {
    fn eq(&self, other: &Regs) -> bool {
        self.is_subset(other) && other.is_subset(self)
    }
}
impl Eq for Regs {}

impl<'a> Extend<&'a Reg> for Regs {
    fn extend<T: IntoIterator<Item = &'a Reg>>(&mut self, regs: T) {
        for &reg in regs {
            self.insert(reg);
        }
    }
}
impl FromIterator<Reg> for Regs {
    fn from_iter<T: IntoIterator<Item = Reg>>(regs: T) -> Regs {
        let mut all = Regs::default();
        for reg in regs {
            all.insert(reg);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The same as a set of the standard library, whatever is asked.
    #[test]
    fn a_set_is_a_set() {
        let numbers = |salt: u32| (0..40).map(move |k: u32| Reg(k * k * salt % 197));
        for (x, y) in [(1, 2), (3, 5), (1, 1), (0, 7), (64, 0)] {
            let (a, b): (Regs, Regs) = (numbers(x).collect(), numbers(y).collect());
            let (u, v): (BTreeSet<Reg>, BTreeSet<Reg>) =
                (numbers(x).collect(), numbers(y).collect());
            let same = |a: &Regs, u: &BTreeSet<Reg>| {
                assert!(a.iter().eq(u.iter().copied()));
                assert_eq!((a.len(), a.is_empty()), (u.len(), u.is_empty()));
            };
            same(&a, &u);
            assert_eq!(a.is_subset(&b), u.is_subset(&v));
            assert_eq!(a == b, u == v);
            let (mut both, mut rest) = (a.clone(), a.clone());
            both.keep(&b);
            rest.remove_all(&b);
            same(&both, &u.intersection(&v).copied().collect());
            same(&rest, &u.difference(&v).copied().collect());
            assert!((0..300).all(|k| a.contains(Reg(k)) == u.contains(&Reg(k))));
            assert!(!rest.is_subset(&b) || rest.is_empty());
        }
        assert!(!Regs::default().contains(Reg(9)) && Regs::default().insert(Reg(9)));
    }
}
