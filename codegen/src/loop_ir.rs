//! The loop IR: grammar of [`Proc`], a kernel as loops over scalars and flat memory.
//!
//! ```text
//! proc  ::= params, body                       one work item = one turn of the Core loop
//! stmt  ::= for v in kind lo..hi step s { stmt* }
//!         | let v = ix                         an index computed once, before what uses it
//!         | r = rhs                            registers are assigned, as C's variables are
//!         | buf[ix] = r
//!         | if ix < ix { stmt* } else { stmt* }
//!         | [r*] = buf[ix..]                   neighbours, loaded as one
//!         | buf[ix..] = [r*]                   and stored as one
//!         | fetch row = buf[ix..]              loaded as they are, for later
//!         | [r*] = row
//!         | prefetch buf[ix]                   brought near, for later
//!         | copy buf[ix..] = buf[ix..] by n  | sync
//! rhs   ::= constant | index(ix) | load buf[ix] | op(r*)
//! ix    ::= integer | v | extent | ix + ix | ix - ix | ix * ix | ix / ix | min(ix, ix)      64 bits
//! ```
//! The meaning is scalar ([`crate::interp`]): a Lane(w) loop is w turns that no turn can tell apart from w in
//! lockstep, a Core loop is turns in any order. A backend may vectorise the one and spread the other. Only in lockstep
//! do shuffles (an operand from another lane) have a meaning.

mod print;

use std::hash::{Hash, Hasher};

use selscan_dsl::{InputId, Op, StateId};
use serde::{Deserialize, Serialize};

use crate::dtype::{Dtype, Ty};
pub use crate::ix::Ix;

/// A loop variable: an index into [`Proc::vars`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Var(pub u32);

/// A register: an index into [`Proc::regs`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reg(pub u32);

/// A row: an index into [`Proc::rows`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Row(pub u32);

/// A buffer: an index into [`Proc::buffers`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Buf(pub u32);

/// How the turns of a loop may run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LoopKind {
    /// Work items: in any order, on any thread. The one outermost loop of a proc, from 0.
    Core,
    /// w turns in lockstep, each with its own registers. `hi − lo` is w.
    Lane(u32),
    /// One after another.
    Serial,
    /// Copies that every item of a block needs alike: an item makes them all, or each thread of its block some.
    Team,
}

/// An operation on registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LoopOp {
    /// An operation of the dsl's table, in the register's precision.
    Math(Op),
    /// a·b + c, rounded once where the machine has it.
    Fma,
    /// The nearest integer, ties to even, as a float; operands beyond ±2²² (f32) or ±2⁵¹ (f64) may give anything.
    Round,
    /// The register itself.
    Copy,
    /// The bits of a float as the integer of its width, and back.
    Bitcast,
    /// The same number in the other float type.
    Convert,
    /// A signed integer as a float.
    FromInt,
    /// Wrapping integer sum.
    IAdd,
    /// Wrapping integer difference.
    ISub,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Shift left by a constant.
    Shl(u8),
    /// Logical shift right by a constant.
    Shr(u8),
    /// Arithmetic shift right by a constant.
    Sar(u8),
    /// Signed integer a < b.
    ILt,
    /// 1/x, within 1 eps; 0 where the result would be subnormal.
    Recip,
    /// The register of the lane that many places below; its own where there is none.
    ShuffleUp(u8),
    /// The register of the lane whose number differs in these bits.
    ShuffleXor(u8),
    /// The register of that lane.
    Broadcast(u8),
    /// (p, h): p·h₋ + h, h₋ of the lane that many places below; h where there is none.
    FmaUp(u8),
    /// p: p·p₋, p₋ of the lane that many places below; p where there is none.
    MulUp(u8),
}

/// The right-hand side of an assignment.
#[derive(Clone, PartialEq, Debug)]
pub enum Rhs {
    /// A float constant, or an integer constant for an integer register.
    Const(f64),
    /// The constant with these bits, for an integer register.
    Bits(u64),
    /// An integer expression as a number.
    Index(Ix),
    /// An element, converted to the register's float type.
    Load(Buf, Ix),
    /// The bits of a 16-bit element, zero-extended to I32.
    LoadBits(Buf, Ix),
    /// An operation.
    Op(LoopOp, Vec<Reg>),
}

/// As `==`, but that it tells -0 from 0.
impl Hash for Rhs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Rhs::Const(x) => x.to_bits().hash(state),
            Rhs::Bits(bits) => bits.hash(state),
            Rhs::Index(ix) => ix.hash(state),
            Rhs::Load(buf, ix) | Rhs::LoadBits(buf, ix) => (buf, ix).hash(state),
            Rhs::Op(op, args) => (op, args).hash(state),
        }
    }
}

/// A statement.
#[derive(Clone, PartialEq, Hash, Debug)]
pub enum Stmt {
    /// A loop: `var` = lo, lo + step, … while below hi.
    For {
        /// Its variable.
        var: Var,
        /// How its turns may run.
        kind: LoopKind,
        /// First value.
        lo: Ix,
        /// Bound, exclusive.
        hi: Ix,
        /// Increment, above 0.
        step: i64,
        /// The turns.
        body: Vec<Stmt>,
    },
    /// An index variable, computed here once; never inside a Lane loop from its variable.
    Let(Var, Ix),
    /// An assignment.
    Set(Reg, Rhs),
    /// A float register into an element, rounded to the buffer's type (nearest, ties to even).
    Store(Buf, Ix, Reg),
    /// The lower 16 bits of an I32 register into a 16-bit element.
    StoreBits(Buf, Ix, Reg),
    /// Neighbouring elements from an index on, each as [`Rhs::Load`] does; the index is a multiple of their number.
    LoadRow(Vec<Reg>, Buf, Ix),
    /// Neighbouring elements from an index on as they lie in memory; the index is a multiple of their number.
    Fetch(Row, Buf, Ix),
    /// What was fetched, each as [`Rhs::Load`] does.
    Take(Vec<Reg>, Row),
    /// An element of an input that will be loaded soon: to be brought near. No effect but time.
    Prefetch(Buf, Ix),
    /// Neighbouring elements from one buffer (second) to another (first) of its type, as they are. They may be on their
    /// way until the next [`Stmt::Sync`].
    Copy(Buf, Ix, Buf, Ix, u32),
    /// What the team copied before is there for all of it after; what it read before is no longer read.
    Sync,
    /// What this thread stored before is there for its team after the next [`Stmt::Wait`], what it read before is no longer
    /// read. It goes on at once.
    Arrive,
    /// The team has come to as many [`Stmt::Arrive`] as there were waits with this one; what this thread copied itself is there.
    Wait,
    /// What the lanes of an item stored before is there for all of them after; what they read before is no longer read.
    Meet,
    /// Registers into neighbouring elements from an index on, each as [`Stmt::Store`] does.
    StoreRow(Buf, Ix, Vec<Reg>),
    /// A choice. Where it differs between lanes, neither branch may hold a shuffle or a loop.
    If {
        /// Left side of `<`.
        lhs: Ix,
        /// Right side of `<`.
        rhs: Ix,
        /// If it holds.
        then: Vec<Stmt>,
        /// If it does not.
        els: Vec<Stmt>,
    },
}

/// What a buffer is to the launch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// An input, read only.
    Input(InputId),
    /// The state before the first step, read only; may be the memory of `Last` of the same state.
    Initial(StateId),
    /// The state after the last step, written.
    Last(StateId),
    /// An output, written.
    Output(u32),
    /// Memory shared by the procs of a program, by number.
    Workspace(u32),
    /// Memory of one work item at a time, of each lane its own where lanes are in lockstep; lost between items.
    Scratch,
    /// The same, or memory of all the items of a block, which put the same into it.
    Shared,
    /// Memory of one work item at a time that all of its lanes see.
    Exchange,
}

impl Role {
    /// Whether it is memory of the launch: what is not is the item's own, or its block's.
    #[must_use]
    pub fn is_bound(self) -> bool {
        !matches!(self, Role::Scratch | Role::Shared | Role::Exchange)
    }
}

/// A buffer of a proc.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct BufferDecl {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// How elements lie in memory.
    pub dtype: Dtype,
    /// How many elements, in terms of extents.
    pub len: Ix,
}

/// A kernel as loops.
#[derive(Clone, PartialEq, Hash, Debug)]
pub struct Proc {
    /// Its name.
    pub name: String,
    /// Names of the run-time extents, by axis; `None` where the extent is compiled in.
    pub extents: Vec<Option<String>>,
    /// Its buffers.
    pub buffers: Vec<BufferDecl>,
    /// A number that divides each run-time extent, by axis.
    pub multiples: Vec<i64>,
    /// Whether no index needs more than 31 bits.
    pub narrow: bool,
    /// Threads of a block, where a GPU runs it.
    pub threads: u32,
    /// Blocks that a multiprocessor is to hold at once; 0: as many as fit.
    pub resident: u32,
    /// Of every eight powers of two that a GPU has an operation for, those that legalisation writes out.
    pub exp2: u32,
    /// Which threads of a GPU's warp an item has, where it has fewer than all.
    pub seats: Seats,
    /// Whether blocks are full and their items have the same loops, so that all threads of one can meet.
    pub full: bool,
    /// Names of loop variables.
    pub vars: Vec<String>,
    /// Types of registers.
    pub regs: Vec<Ty>,
    /// Rows: the type of their elements, and how many.
    pub rows: Vec<(Dtype, u32)>,
    /// How many work items: the bound of the Core loop.
    pub items: Ix,
    /// The Core loop, and nothing else.
    pub body: Vec<Stmt>,
}

/// Which threads of a warp are one item's lanes. Loads of 16 bytes from shared memory in which every other thread, or every
/// other pair of threads, has the address of the one before take half as long as others (measured, sm_90).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Seats {
    /// One after another.
    #[default]
    Neighbours,
    /// Two by two: 2k and 2k + 1 are of one item, 2k + 2 of the next. For lanes that exchange no registers.
    Pairs,
    /// Each next to those of the other items of the warp: items are neighbours, lanes are not.
    Strided,
}

/// The procs of one kernel, run one after another, and the memory that they share.
#[derive(Clone, PartialEq, Hash, Debug)]
pub struct Program {
    /// The procs in order.
    pub procs: Vec<Proc>,
    /// Workspaces by number: storage type and length.
    pub workspaces: Vec<(Dtype, Ix)>,
}

impl Proc {
    /// A proc of that name with nothing in it.
    #[must_use]
    pub fn empty(name: &str) -> Proc {
        Proc {
            name: name.to_owned(),
            extents: vec![],
            buffers: vec![],
            multiples: vec![],
            narrow: false,
            threads: 1,
            resident: 0,
            exp2: 0,
            seats: Seats::Neighbours,
            full: false,
            vars: vec![],
            regs: vec![],
            rows: vec![],
            items: Ix::Const(0),
            body: vec![],
        }
    }

    /// A buffer's declaration.
    #[must_use]
    pub fn buffer(&self, buf: Buf) -> &BufferDecl {
        &self.buffers[buf.0 as usize]
    }
    /// A register's type.
    #[must_use]
    pub fn ty(&self, reg: Reg) -> Ty {
        self.regs[reg.0 as usize]
    }
    /// A new register.
    pub fn reg(&mut self, ty: Ty) -> Reg {
        self.regs.push(ty);
        Reg(self.regs.len() as u32 - 1)
    }
    /// A new loop variable.
    pub fn var(&mut self, name: impl Into<String>) -> Var {
        self.vars.push(name.into());
        Var(self.vars.len() as u32 - 1)
    }
}

impl Stmt {
    /// The same statement with `f` applied to each block of statements in it.
    #[must_use]
    pub fn map_blocks(self, mut f: impl FnMut(Vec<Stmt>) -> Vec<Stmt>) -> Stmt {
        match self {
            Stmt::For {
                var,
                kind,
                lo,
                hi,
                step,
                body,
            } => Stmt::For {
                var,
                kind,
                lo,
                hi,
                step,
                body: f(body),
            },
            Stmt::If {
                lhs,
                rhs,
                then,
                els,
            } => Stmt::If {
                lhs,
                rhs,
                then: f(then),
                els: f(els),
            },
            stmt => stmt,
        }
    }
}

impl LoopOp {
    /// Whether an operand comes from another lane.
    #[must_use]
    pub fn is_shuffle(self) -> bool {
        matches!(
            self,
            LoopOp::ShuffleUp(_)
                | LoopOp::ShuffleXor(_)
                | LoopOp::Broadcast(_)
                | LoopOp::FmaUp(_)
                | LoopOp::MulUp(_)
        )
    }
    /// How many registers it reads.
    #[must_use]
    pub fn arity(self) -> usize {
        match self {
            LoopOp::Math(op) => op.arity(),
            LoopOp::Fma => 3,
            LoopOp::IAdd | LoopOp::ISub | LoopOp::And | LoopOp::Or | LoopOp::ILt => 2,
            LoopOp::Round | LoopOp::Copy | LoopOp::Bitcast | LoopOp::Convert | LoopOp::FromInt => 1,
            LoopOp::Shl(_) | LoopOp::Shr(_) | LoopOp::Sar(_) | LoopOp::Recip => 1,
            LoopOp::ShuffleUp(_) | LoopOp::ShuffleXor(_) | LoopOp::Broadcast(_) => 1,
            LoopOp::FmaUp(_) => 2,
            LoopOp::MulUp(_) => 1,
        }
    }
}
