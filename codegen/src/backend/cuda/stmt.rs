//! Statements, values and operations as CUDA C. In: a legal proc. Out: its body as text.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Write};

use selscan_dsl::Op;

use super::row::RowText;
use crate::dtype::Ty;
use crate::loop_ir::{Ix, LoopKind, LoopOp, Proc, Reg, Rhs, Role, Seats, Stmt, Var};
use crate::regs::{Regs, each};

/// The text under construction. Its errors are what CUDA C has no words for.
pub(super) struct Emitter<'a> {
    proc: &'a Proc,
    /// The C type of indices.
    index: &'static str,
    /// Threads that run an item together.
    lanes: u32,
    /// Whether the threads of a block share memory, or may meet.
    shares: bool,
    /// Whether the threads of a warp stay together from the first statement to the last.
    together: bool,
    /// Registers that an operation gave a value.
    computed: Regs,
    rows: u32,
    /// Turns that the threads of the block have shared out since they last met.
    teamed: i64,
    pub text: String,
}

impl<'a> Emitter<'a> {
    pub fn new(proc: &'a Proc, lanes: u32) -> Self {
        let shares = proc.full || proc.buffers.iter().any(|b| b.role == Role::Shared);
        Emitter {
            proc,
            index: index_type(proc),
            lanes,
            shares,
            together: !shares
                && lanes > 1
                && lanes < 32
                && stays_together(&proc.body, &mut BTreeSet::new()),
            computed: Regs::default(),
            rows: 0,
            teamed: 0,
            text: String::new(),
        }
    }

    /// The declarations of every register.
    pub fn registers(&self) -> String {
        let mut text = String::new();
        for ty in [Ty::F32, Ty::F64, Ty::I32, Ty::I64, Ty::Bool] {
            let of = (0..self.proc.regs.len()).filter(|&r| self.proc.regs[r] == ty);
            let of: Vec<usize> = of.collect();
            // Writing to a String cannot fail.
            for some in of.chunks(16) {
                let _ = write!(text, "    {}", c_type(ty));
                for (i, r) in some.iter().enumerate() {
                    let _ = write!(text, "{}r{r}", if i == 0 { " " } else { ", " });
                }
                text.push_str(";\n");
            }
        }
        for (number, &(dtype, count)) in self.proc.rows.iter().enumerate() {
            let row = RowText::fetched(dtype, count as usize, number as u32);
            let _ = writeln!(text, "    {} {};", row.ty, row.name);
        }
        text
    }

    fn line(&mut self, depth: usize, text: impl Display) {
        for _ in 0..depth {
            self.text.push_str("    ");
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{text}");
    }

    pub fn stmts(&mut self, stmts: &[Stmt], depth: usize) -> Result<(), String> {
        stmts.iter().try_for_each(|s| self.stmt(s, depth))
    }

    fn stmt(&mut self, stmt: &Stmt, depth: usize) -> Result<(), String> {
        match stmt {
            Stmt::For {
                var,
                kind,
                lo,
                hi,
                step,
                body,
            } => {
                let (lo_ix, hi_ix) = (lo, hi);
                let (v, lo, hi) = (self.var(*var), self.ix(lo), self.ix(hi));
                let (index, threads, lanes) = (self.index, self.proc.threads, self.lanes);
                match kind {
                    LoopKind::Core => {
                        let item = format!("(long long)blockIdx.x * {} + slot", threads / lanes);
                        self.line(depth, format_args!("long long item = {item};"));
                        if self.shares {
                            // Blocks are full: every thread meets the others at each barrier.
                        } else if self.together {
                            // A thread without an item goes along with the last one and stores nothing.
                            self.line(depth, format_args!("const bool live = item < {hi};"));
                            self.line(depth, format_args!("if (!live) item = {hi} - 1;"));
                        } else {
                            self.line(depth, format_args!("if (item >= {hi}) return;"));
                        }
                        self.line(depth, format_args!("const {index} {v} = ({index})item;"));
                        return self.stmts(body, depth);
                    }
                    LoopKind::Lane(width) => {
                        self.line(depth, format_args!("{{ const {index} {v} = {lo} + lane;"));
                        let width = if self.together || self.shares {
                            32
                        } else {
                            (*width).min(32)
                        };
                        self.line(depth, lane_mask(width, self.proc.seats));
                    }
                    LoopKind::Team => {
                        // Copies that not all threads take part in begin with those that the last ones left idle.
                        let turns = match (lo_ix, hi_ix) {
                            (Ix::Const(0), Ix::Const(n)) => Some(*n),
                            _ => None,
                        };
                        let all = i64::from(threads);
                        let idle = self.teamed % all;
                        self.teamed += turns.unwrap_or(0);
                        let own = match idle {
                            0 => "threadIdx.x".to_owned(),
                            idle => format!("(threadIdx.x + {}u) % {threads}u", all - idle),
                        };
                        match turns {
                            // As many turns for every thread: a loop that can be unrolled whole.
                            Some(n) if n % all == 0 => {
                                self.line(depth, "#pragma unroll 8");
                                let head =
                                    format!("for (int turn = 0; turn < {}; turn++) {{", n / all);
                                self.line(depth, head);
                                let own = format!("({index})({own} + turn * {threads})");
                                self.line(depth + 1, format_args!("const {index} {v} = {own};"));
                            }
                            Some(n) if n < all => {
                                let head = format!(
                                    "if (const {index} {v} = ({index})({own}); {v} < {n}) {{"
                                );
                                self.line(depth, head);
                            }
                            _ => {
                                self.line(depth, "#pragma unroll 4");
                                let first = format!("{index} {v} = {lo} + ({index})({own})");
                                let head =
                                    format!("for ({first}; {v} < {hi}; {v} += {threads}) {{");
                                self.line(depth, head);
                            }
                        }
                    }
                    LoopKind::Serial => {
                        self.pins(body, depth);
                        self.line(depth, "#pragma unroll 1");
                        let head =
                            format!("for ({index} {v} = {lo}; {v} < {hi}; {v} += {step}) {{");
                        self.line(depth, head);
                    }
                }
                self.stmts(body, depth + 1)?;
                self.line(depth, "}");
            }
            Stmt::Let(var, ix) => {
                let (index, v, ix) = (self.index, self.var(*var), self.ix(ix));
                self.line(depth, format_args!("const {index} {v} = {ix};"));
            }
            Stmt::Set(reg, rhs) => {
                if let Rhs::Op(..) = rhs {
                    self.computed.insert(*reg);
                }
                let value = self.rhs(*reg, rhs)?;
                self.line(depth, format_args!("r{} = {value};", reg.0));
            }
            Stmt::Store(buf, ix, reg) => {
                let (live, ix) = (self.live(buf.0), self.ix(ix));
                self.line(
                    depth,
                    format_args!("{live}put(b{}[{ix}], r{});", buf.0, reg.0),
                );
            }
            Stmt::StoreBits(buf, ix, reg) => {
                let (live, ix) = (self.live(buf.0), self.ix(ix));
                let value = format!("(unsigned short)r{}", reg.0);
                self.line(
                    depth,
                    format_args!("{live}b{}[{ix}].bits = {value};", buf.0),
                );
            }
            Stmt::LoadRow(regs, buf, ix) => {
                let row = self.row(regs, buf.0);
                let from = format!("*(const {}*)(b{} + {})", row.ty, buf.0, self.ix(ix));
                self.line(
                    depth,
                    format_args!("const {} {} = {from};", row.ty, row.name),
                );
                for (k, reg) in regs.iter().enumerate() {
                    let cast = c_type(self.proc.ty(*reg));
                    let value = format!("({cast}){}", row.get(k));
                    self.line(depth, format_args!("r{} = {value};", reg.0));
                }
            }
            Stmt::Fetch(row, buf, ix) => {
                let (dtype, count) = self.proc.rows[row.0 as usize];
                let row = RowText::fetched(dtype, count as usize, row.0);
                let text = format!("fetch({}, b{} + {});", row.name, buf.0, self.ix(ix));
                self.line(depth, text);
            }
            Stmt::Copy(to, at, from, ix, count) => {
                let dtype = self.proc.buffer(*to).dtype;
                let row = RowText::fetched(dtype, *count as usize, 0);
                let (at, ix) = (self.ix(at), self.ix(ix));
                let (to, from) = (to.0, from.0);
                let text = match *count as usize * dtype.bytes() {
                    bytes @ (4 | 8 | 16) => {
                        format!("copy_async<{bytes}>(b{to} + {at}, b{from} + {ix});")
                    }
                    _ => format!(
                        "*({0}*)(b{to} + {at}) = *(const {0}*)(b{from} + {ix});",
                        row.ty
                    ),
                };
                self.line(depth, text);
            }
            Stmt::Sync => {
                self.teamed = 0;
                self.line(depth, "arrived();");
                self.line(depth, "__syncthreads();");
            }
            Stmt::Arrive => self.line(depth, "arrive(barrier);"),
            Stmt::Wait => {
                self.teamed = 0;
                self.line(depth, "arrived();");
                self.line(depth, "wait(barrier, phase);");
            }
            // An item is a block, of which all threads are there or none.
            Stmt::Meet if self.lanes > 32 => self.line(depth, "__syncthreads();"),
            // Either all threads of a warp are there, or an item is a whole one.
            Stmt::Meet if self.together || self.shares || self.lanes == 32 => {
                self.line(depth, "__syncwarp();");
            }
            Stmt::Meet => return Err("lanes that meet where loops differ between items".into()),
            Stmt::Prefetch(buf, ix) => {
                let text = format!("prefetch(b{} + {});", buf.0, self.ix(ix));
                self.line(depth, text);
            }
            Stmt::Take(regs, row) => {
                let (dtype, count) = self.proc.rows[row.0 as usize];
                let row = RowText::fetched(dtype, count as usize, row.0);
                for (k, reg) in regs.iter().enumerate() {
                    let cast = c_type(self.proc.ty(*reg));
                    self.line(depth, format_args!("r{} = ({cast}){};", reg.0, row.get(k)));
                }
            }
            Stmt::StoreRow(buf, ix, regs) => {
                let row = self.row(regs, buf.0);
                self.line(depth, format_args!("{} {};", row.ty, row.name));
                let names: Vec<String> = regs.iter().map(|r| format!("r{}", r.0)).collect();
                for text in row.set(&names) {
                    self.line(depth, text);
                }
                let (live, ix) = (self.live(buf.0), self.ix(ix));
                let to = format!("*({}*)(b{} + {ix})", row.ty, buf.0);
                self.line(depth, format_args!("{live}{to} = {};", row.name));
            }
            Stmt::If {
                lhs,
                rhs,
                then,
                els,
            } => {
                let test = format!("if ({} < {}) {{", self.ix(lhs), self.ix(rhs));
                self.line(depth, test);
                self.stmts(then, depth + 1)?;
                if !els.is_empty() {
                    self.line(depth, "} else {");
                    self.stmts(els, depth + 1)?;
                }
                self.line(depth, "}");
            }
        }
        Ok(())
    }

    /// A new row of as many elements.
    fn row(&mut self, regs: &[Reg], buf: u32) -> RowText {
        self.rows += 1;
        RowText::new(self.proc.buffers[buf as usize].dtype, regs.len(), self.rows)
    }

    /// What keeps a thread without an item from storing; its scratch memory is its own.
    fn live(&self, buf: u32) -> &'static str {
        let own = matches!(
            self.proc.buffers[buf as usize].role,
            Role::Scratch | Role::Exchange
        );
        if self.together && !own {
            "if (live) "
        } else {
            ""
        }
    }

    /// Keeps what was computed before a loop and is read in it from being computed again at every turn, which the
    /// compiler does to save registers.
    fn pins(&mut self, body: &[Stmt], depth: usize) {
        let (mut read, mut set) = (Regs::default(), Regs::default());
        each(body, &mut |stmt| {
            read.extend(stmt.reads());
            set.extend(stmt.writes());
        });
        read.remove_all(&set);
        read.keep(&self.computed);
        for reg in read.iter().filter(|&reg| self.proc.ty(reg) == Ty::F32) {
            self.line(depth, format_args!("pin(r{});", reg.0));
        }
    }

    fn var(&self, var: Var) -> VarText {
        VarText(var)
    }

    fn ix<'i>(&self, ix: &'i Ix) -> IxText<'a, 'i> {
        IxText(self.proc, ix)
    }

    fn rhs(&self, reg: Reg, rhs: &Rhs) -> Result<String, String> {
        let ty = self.proc.ty(reg);
        Ok(match rhs {
            Rhs::Const(x) => constant(ty, *x),
            Rhs::Bits(bits) if ty == Ty::I64 => format!("(long long){bits:#x}ull"),
            Rhs::Bits(bits) => format!("(int){:#x}u", *bits as u32),
            Rhs::Index(ix) => format!("({}){}", c_type(ty), self.ix(ix)),
            Rhs::Load(buf, ix) => {
                format!("({})number(b{}[{}])", c_type(ty), buf.0, self.ix(ix))
            }
            Rhs::LoadBits(buf, ix) => format!("(int)b{}[{}].bits", buf.0, self.ix(ix)),
            Rhs::Op(op, args) => {
                let from = args.first().map_or(ty, |a| self.proc.ty(*a));
                let x: Vec<RegText> = args.iter().map(|a| RegText(*a)).collect();
                self.op(*op, from, ty, &x)?
            }
        })
    }

    fn op(&self, op: LoopOp, from: Ty, to: Ty, x: &[RegText]) -> Result<String, String> {
        let single = from == Ty::F32;
        let call = |f: &str, d: &str| {
            let name = if single { f } else { d };
            match x {
                [x] => format!("{name}({x})"),
                [x, y] => format!("{name}({x}, {y})"),
                _ => format!("{name}({}, {}, {})", x[0], x[1], x[2]),
            }
        };
        let infix = |sign: &str| format!("{} {sign} {}", x[0], x[1]);
        // Wrapping arithmetic is that of unsigned numbers.
        let unsigned = if from == Ty::I64 {
            "unsigned long long"
        } else {
            "unsigned"
        };
        let signed = c_type(to);
        let wrapping = |sign: &str| {
            format!(
                "({signed})(({unsigned}){} {sign} ({unsigned}){})",
                x[0], x[1]
            )
        };
        let lanes = self.lanes.min(32);
        let far = stride(self.proc.seats, lanes);
        // The threads that a shuffle is among: those of the item, or all.
        let among = lanes * far;
        let threads = |lanes: u8| u32::from(lanes) * far;
        let shuffle = |name: &str, k: u8| {
            let k = threads(k);
            format!("{name}(mask, {}, {k}, {among})", x[0])
        };
        Ok(match op {
            LoopOp::Math(math) => match math {
                Op::Neg => format!("-{}", x[0]),
                Op::Add => infix("+"),
                Op::Sub => infix("-"),
                Op::Mul => infix("*"),
                Op::Div => call("quotient", "quotient"),
                Op::Abs => call("fabsf", "fabs"),
                Op::Sqrt => call("__fsqrt_rn", "__dsqrt_rn"),
                Op::Floor => call("floorf", "floor"),
                Op::Lt => infix("<"),
                Op::Le => infix("<="),
                Op::Gt => infix(">"),
                Op::Ge => infix(">="),
                Op::Eq => infix("=="),
                Op::Ne => infix("!="),
                Op::Select => format!("{} ? {} : {}", x[0], x[1], x[2]),
                Op::Exp2 if single => call("exp2_of", ""),
                Op::Min if single => call("min_of", ""),
                Op::Max if single => call("max_of", ""),
                Op::Min
                | Op::Max
                | Op::Rsqrt
                | Op::Exp
                | Op::Exp2
                | Op::Expm1
                | Op::Phi1
                | Op::Log
                | Op::Log2
                | Op::Sin
                | Op::Cos
                | Op::Tanh
                | Op::Sigmoid
                | Op::Softplus
                | Op::Erf
                | Op::Re
                | Op::Im
                | Op::Conj
                | Op::Complex => return Err(math.name().to_owned()),
            },
            LoopOp::Fma => call("fmaf", "fma"),
            LoopOp::Recip if single => call("recip_of", ""),
            LoopOp::Recip | LoopOp::Round => return Err(op.name()),
            LoopOp::Copy => x[0].to_string(),
            LoopOp::Bitcast => {
                let name = match from {
                    Ty::F32 => "__float_as_int",
                    Ty::F64 => "__double_as_longlong",
                    Ty::I64 => "__longlong_as_double",
                    Ty::I32 | Ty::Bool => "__int_as_float",
                };
                format!("{name}({})", x[0])
            }
            LoopOp::Convert | LoopOp::FromInt => format!("({signed}){}", x[0]),
            LoopOp::IAdd => wrapping("+"),
            LoopOp::ISub => wrapping("-"),
            LoopOp::And => infix("&"),
            LoopOp::Or => infix("|"),
            LoopOp::Shl(k) => format!("({signed})(({unsigned}){} << {k})", x[0]),
            LoopOp::Shr(k) => format!("({signed})(({unsigned}){} >> {k})", x[0]),
            LoopOp::Sar(k) => format!("{} >> {k}", x[0]),
            LoopOp::ILt => infix("<"),
            LoopOp::ShuffleUp(k) => shuffle("__shfl_up_sync", k),
            LoopOp::ShuffleXor(k) => shuffle("__shfl_xor_sync", k),
            LoopOp::Broadcast(k) if far > 1 => {
                let k = threads(k);
                format!("__shfl_sync(mask, {}, {k} + threadIdx.x % {far}u)", x[0])
            }
            LoopOp::Broadcast(k) => shuffle("__shfl_sync", k),
            LoopOp::FmaUp(k) => {
                let k = threads(k);
                format!("fma_up<{k}, {among}>(mask, {}, {})", x[0], x[1])
            }
            LoopOp::MulUp(k) => format!("mul_up<{}, {among}>(mask, {})", threads(k), x[0]),
        })
    }
}

/// A variable in C.
#[derive(Clone, Copy)]
struct VarText(Var);

impl Display for VarText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0.0)
    }
}

/// A register in C.
#[derive(Clone, Copy)]
struct RegText(Reg);

impl Display for RegText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0.0)
    }
}

/// An index in C.
#[derive(Clone, Copy)]
struct IxText<'a, 'i>(&'a Proc, &'i Ix);

impl Display for IxText<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |ix| IxText(self.0, ix);
        match self.1 {
            Ix::Const(k) if self.0.narrow => write!(f, "{k}"),
            Ix::Const(k) => write!(f, "{k}ll"),
            Ix::Var(v) => VarText(*v).fmt(f),
            Ix::Extent(axis) => write!(f, "e{}", axis.0),
            Ix::Add(a, b) => write!(f, "({} + {})", of(a), of(b)),
            Ix::Sub(a, b) => write!(f, "({} - {})", of(a), of(b)),
            Ix::Mul(a, b) => write!(f, "({} * {})", of(a), of(b)),
            // Operands are never negative, and unsigned division by a power of two is one shift.
            Ix::Div(a, b) => {
                let (index, a, b) = (index_type(self.0), of(a), of(b));
                write!(
                    f,
                    "({index})((unsigned {index}){a} / (unsigned {index}){b})"
                )
            }
            Ix::Min(a, b) => write!(f, "min({}, {})", of(a), of(b)),
        }
    }
}

/// The C type of indices.
pub(super) fn index_type(proc: &Proc) -> &'static str {
    if proc.narrow { "int" } else { "long long" }
}

/// Whether no loop's bounds and no condition over shuffles depend on the item; `own` are variables that do.
fn stays_together(body: &[Stmt], own: &mut BTreeSet<Var>) -> bool {
    body.iter().all(|stmt| {
        let depends = |ix: &Ix| own.iter().any(|v| ix.mentions(*v));
        let together = match stmt {
            Stmt::For { lo, hi, .. } => !depends(lo) && !depends(hi),
            Stmt::If { lhs, rhs, .. } => {
                let mut all = stmt.blocks().into_iter().flatten();
                let plain = !all.any(|s| matches!(s, Stmt::For { .. }));
                plain || !(depends(lhs) || depends(rhs))
            }
            _ => true,
        };
        match stmt {
            Stmt::For {
                var,
                kind: LoopKind::Core,
                ..
            } => {
                own.insert(*var);
            }
            Stmt::Let(var, ix) if depends(ix) => {
                own.insert(*var);
            }
            _ => {}
        }
        together && stmt.blocks().iter().all(|block| stays_together(block, own))
    })
}

/// Threads from one lane of an item to the next.
fn stride(seats: Seats, lanes: u32) -> u32 {
    match seats {
        Seats::Strided => 32 / lanes,
        Seats::Neighbours | Seats::Pairs => 1,
    }
}

/// The threads of the present thread's item, for shuffles.
fn lane_mask(width: u32, seats: Seats) -> String {
    if width == 32 {
        return "const unsigned mask = 0xffffffffu;".to_owned();
    }
    let far = stride(seats, width);
    let ones = (0..width).fold(0u32, |mask, lane| mask | 1 << (lane * far));
    let first = match far {
        1 => format!("threadIdx.x % 32u / {width}u * {width}u"),
        _ => format!("threadIdx.x % {far}u"),
    };
    format!("const unsigned mask = {ones:#x}u << ({first});")
}

fn c_type(ty: Ty) -> &'static str {
    match ty {
        Ty::F32 => "float",
        Ty::F64 => "double",
        Ty::I32 => "int",
        Ty::I64 => "long long",
        Ty::Bool => "bool",
    }
}

fn constant(ty: Ty, x: f64) -> String {
    match ty {
        Ty::F32 if (x as f32).is_finite() => format!("{:?}f", x as f32),
        Ty::F32 => format!("__int_as_float({:#x})", (x as f32).to_bits()),
        Ty::F64 if x.is_finite() => format!("{x:?}"),
        Ty::F64 => format!("__longlong_as_double({:#x}ll)", x.to_bits()),
        Ty::I32 => format!("{}", x as i32),
        Ty::I64 => format!("{}ll", x as i64),
        Ty::Bool => format!("{}", x != 0.0),
    }
}
