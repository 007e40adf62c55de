//! The memory of one launch of a program, by role.
//!
//! In: tensors. Out: addresses that stay valid, and in the right mode (read or written), for `'a`.

use std::ops::Range;

use selscan_codegen::Dtype;
use selscan_codegen::loop_ir::Role;
use selscan_dsl::{InputId, StateId};

use super::memory::{Span, SpanMut};
use crate::buffer::{TensorMut, TensorRef};
use crate::place::Place;

/// One buffer: its address, element type, how many elements it has and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub ptr: *mut u8,
    pub dtype: Dtype,
    pub len: usize,
    pub place: Place,
}

/// The memory of one launch. A role bound twice keeps the later binding.
#[derive(Default)]
pub struct Bindings<'a> {
    bound: Vec<(Role, Bound)>,
    memory: std::marker::PhantomData<(&'a [u8], &'a mut [u8])>,
}

impl<'a> Bindings<'a> {
    /// No memory.
    #[must_use]
    pub fn new() -> Self {
        Bindings::default()
    }
    /// An input of the program's recurrence.
    pub fn input(&mut self, id: InputId, tensor: TensorRef<'a>) {
        self.read(Role::Input(id), tensor.span());
    }
    /// A state before the first step.
    pub fn initial(&mut self, id: StateId, tensor: TensorRef<'a>) {
        self.read(Role::Initial(id), tensor.span());
    }
    /// A state after the last step.
    pub fn last(&mut self, id: StateId, tensor: TensorMut<'a>) {
        self.write(Role::Last(id), tensor.into_span());
    }
    /// A state before the first step that becomes the state after the last one.
    pub fn in_place(&mut self, id: StateId, tensor: TensorMut<'a>) {
        let mut span = tensor.into_span();
        let bound = Bound {
            ptr: span.ptr(),
            dtype: span.dtype(),
            len: span.len(),
            place: span.place(),
        };
        self.bind(Role::Initial(id), bound);
        self.write(Role::Last(id), span);
    }
    /// An output, by its position.
    pub fn output(&mut self, position: u32, tensor: TensorMut<'a>) {
        self.write(Role::Output(position), tensor.into_span());
    }
    pub(super) fn workspace(&mut self, number: u32, span: SpanMut<'a>) {
        self.write(Role::Workspace(number), span);
    }
    fn read(&mut self, role: Role, span: Span<'a>) {
        let bound = Bound {
            ptr: span.ptr(),
            dtype: span.dtype(),
            len: span.len(),
            place: span.place(),
        };
        self.bind(role, bound);
    }
    fn write(&mut self, role: Role, mut span: SpanMut<'a>) {
        let bound = Bound {
            ptr: span.ptr(),
            dtype: span.dtype(),
            len: span.len(),
            place: span.place(),
        };
        self.bind(role, bound);
    }
    fn bind(&mut self, role: Role, bound: Bound) {
        self.bound.retain(|(r, _)| *r != role);
        self.bound.push((role, bound));
    }
    /// The addresses of all memory that is bound.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Range<u64>> {
        self.bound.iter().map(|(_, b)| {
            let first = b.ptr.addr() as u64;
            first..first + (b.len * b.dtype.bytes()) as u64
        })
    }
    pub(super) fn get(&self, role: Role) -> Option<Bound> {
        self.bound.iter().find(|(r, _)| *r == role).map(|(_, b)| *b)
    }
}
