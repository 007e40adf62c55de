//! What can be wrong with a proc, in words.

use crate::dtype::Dtype;

/// A proc that is not in the grammar.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("proc {proc} is malformed: {fault}")]
pub struct VerifyError {
    /// The proc's name.
    pub proc: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a proc.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The body is not one Core loop.
    #[error("its body must be one core loop, and nothing else")]
    NotOneCore,
    /// The Core loop does not run over the items.
    #[error("its core loop must run from 0 to the number of items by 1, not {0}")]
    CoreBounds(String),
    /// A Core loop inside another loop.
    #[error("core loop over {0} is not the outermost loop")]
    InnerCore(String),
    /// A Lane loop inside a Lane loop.
    #[error("lane loop over {0} is inside another lane loop")]
    NestedLane(String),
    /// A Lane loop without turns.
    #[error("lane loop over {0} has width 0")]
    NoLanes(String),
    /// A Lane loop whose bounds are not its width apart.
    #[error("lane loop over {var} has width {width}, but runs {lo}..{hi} by {step}")]
    LaneWidth {
        /// The loop variable.
        var: String,
        /// The width.
        width: u32,
        /// First value.
        lo: String,
        /// Bound.
        hi: String,
        /// Increment.
        step: i64,
    },
    /// A bound, a condition or a store that is not the same in every lane.
    #[error("{what} must be the same in every lane, but depends on {var}")]
    LaneDependent {
        /// What is at fault.
        what: &'static str,
        /// The lane variable.
        var: String,
    },
    /// Lanes that do not meet between what one of them stores and another loads.
    #[error("the lanes that have {0} in common must meet between a store to it and a load")]
    Unmet(String),
    /// An increment that is not above 0.
    #[error("loop over {var} has step {step}; it must be above 0")]
    Step {
        /// The loop variable.
        var: String,
        /// Its increment.
        step: i64,
    },
    /// A loop or index variable used outside the statements it is defined for.
    #[error("{0} is used where it is not defined")]
    Scope(String),
    /// A variable defined again where it is defined.
    #[error("{0} is defined a second time")]
    Shadow(String),
    /// A divisor that is a constant below 1.
    #[error("{0} divides by a number below 1")]
    Divisor(String),
    /// An extent that is compiled in or does not exist.
    #[error("extent {0} is not a run-time extent of this proc")]
    Extent(u8),
    /// A variable, register or buffer that was never declared.
    #[error("{what} {index} is not declared")]
    Undeclared {
        /// `variable`, `register` or `buffer`.
        what: &'static str,
        /// Its index.
        index: u32,
    },
    /// A register read before it is assigned on every path.
    #[error("r{0} may be read before it is assigned")]
    Undefined(u32),
    /// A register of the wrong type.
    #[error("{what}: r{reg} is {found}, not {wanted}")]
    Type {
        /// The statement.
        what: String,
        /// The register.
        reg: u32,
        /// Its type.
        found: &'static str,
        /// What would be right.
        wanted: &'static str,
    },
    /// An operation with too many or too few operands.
    #[error("{op} takes {wanted} operands, not {found}")]
    Arity {
        /// The operation.
        op: String,
        /// How many it takes.
        wanted: usize,
        /// How many it has.
        found: usize,
    },
    /// An operation of complex numbers.
    #[error("{0} is for complex numbers; a proc has pairs of real ones")]
    ComplexOp(&'static str),
    /// A shift by the register's width or more.
    #[error("{op} of a register with {bits} bits")]
    Shift {
        /// The operation.
        op: String,
        /// The register's width.
        bits: u8,
    },
    /// A store to a buffer that is read only.
    #[error("{0} is read only, but is stored to")]
    ReadOnly(String),
    /// Bits of an element that does not have 16.
    #[error("{buffer} has {dtype} elements; only 16-bit elements are accessed as bits")]
    NotHalf {
        /// The buffer.
        buffer: String,
        /// Its storage type.
        dtype: Dtype,
    },
    /// A row taken before it was fetched, or in another number of registers.
    #[error("w{0} is taken as what was not fetched")]
    NotFetched(u32),
    /// A row of neighbours that no access has.
    #[error(
        "{buffer}: {count} elements are not accessed as one; 2, 4 or 8 of at most 16 bytes are, of what the lanes of an item have in common if its length is a multiple of them"
    )]
    Row {
        /// The buffer.
        buffer: String,
        /// How many elements.
        count: usize,
    },
    /// An operand from a lane that does not exist.
    #[error("{0} is outside of a lane loop that has such a lane")]
    NoLane(String),
    /// A buffer or item count that depends on a loop variable.
    #[error("{what} must be known before the loops, but mentions a loop variable: {text}")]
    NotConstant {
        /// What is at fault.
        what: String,
        /// The expression.
        text: String,
    },
}
