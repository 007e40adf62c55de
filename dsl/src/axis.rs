//! Named axes, sets of them, and their extents.
//!
//! An axis is a name (`B`, `L`, `D`, `N`); inside one [`crate::Recurrence`] it is an index into that
//! recurrence's table of axes, so that a set of axes is a bit mask.

use std::fmt;

/// An axis of one recurrence: an index into [`crate::Recurrence::axes`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AxisId(pub u8);

/// The most axes that one recurrence may name.
pub const MAX_AXES: usize = 32;

/// A named axis.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AxisDecl {
    /// Its name as written, for example `N`.
    pub name: String,
    /// `N2 = N`: the axis whose extent this one shares.
    pub alias_of: Option<AxisId>,
}

/// A set of axes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AxisSet(pub u32);

impl AxisSet {
    /// The set without axes.
    pub const EMPTY: AxisSet = AxisSet(0);

    /// The set of one axis.
    #[must_use]
    pub fn of(axis: AxisId) -> Self {
        AxisSet(1 << axis.0)
    }
    /// Whether `axis` is in the set.
    #[must_use]
    pub fn contains(self, axis: AxisId) -> bool {
        self.0 >> axis.0 & 1 == 1
    }
    /// Axes in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        AxisSet(self.0 | other.0)
    }
    /// Axes in both sets.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        AxisSet(self.0 & other.0)
    }
    /// Axes of this set that are not in `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        AxisSet(self.0 & !other.0)
    }
    /// The set with `axis`.
    #[must_use]
    pub fn with(self, axis: AxisId) -> Self {
        self.union(Self::of(axis))
    }
    /// The set without `axis`.
    #[must_use]
    pub fn without(self, axis: AxisId) -> Self {
        self.minus(Self::of(axis))
    }
    /// Whether each of its axes is in `other`.
    #[must_use]
    pub fn is_subset(self, other: Self) -> bool {
        self.minus(other).is_empty()
    }
    /// Whether it has no axis.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// How many axes it has.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }
    /// Its axes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = AxisId> {
        (0..MAX_AXES as u8)
            .map(AxisId)
            .filter(move |&a| self.contains(a))
    }
}

impl FromIterator<AxisId> for AxisSet {
    fn from_iter<I: IntoIterator<Item = AxisId>>(iter: I) -> Self {
        iter.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for AxisSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|a| a.0)).finish()
    }
}

/// The extent of every axis of one recurrence, by [`AxisId`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Extents(pub Vec<usize>);

impl Extents {
    /// The extent of `axis`.
    #[must_use]
    pub fn get(&self, axis: AxisId) -> usize {
        self.0[axis.0 as usize]
    }
    /// Extents of `axes`, in order: a shape.
    #[must_use]
    pub fn shape(&self, axes: &[AxisId]) -> Vec<usize> {
        axes.iter().map(|&a| self.get(a)).collect()
    }
}
