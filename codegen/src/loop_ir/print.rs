//! The printer of the loop IR. In: a proc or a program. Out: its text, in the grammar of [`super`].

use std::fmt;

use super::{Ix, LoopKind, LoopOp, Proc, Program, Reg, Rhs, Role, Stmt};

impl Proc {
    /// An integer expression as text.
    #[must_use]
    pub fn show(&self, ix: &Ix) -> String {
        self.show_at(ix, 0)
    }

    fn show_at(&self, ix: &Ix, level: u8) -> String {
        let (text, own) = match ix {
            Ix::Const(k) => (k.to_string(), 3),
            Ix::Var(v) => (self.vars[v.0 as usize].clone(), 3),
            Ix::Extent(axis) => {
                let name = self.extents.get(axis.0 as usize).and_then(Clone::clone);
                (name.unwrap_or_else(|| format!("extent{}", axis.0)), 3)
            }
            Ix::Add(a, b) => (
                format!("{} + {}", self.show_at(a, 0), self.show_at(b, 1)),
                0,
            ),
            Ix::Sub(a, b) => (
                format!("{} - {}", self.show_at(a, 0), self.show_at(b, 1)),
                0,
            ),
            Ix::Mul(a, b) => (format!("{}*{}", self.show_at(a, 1), self.show_at(b, 2)), 1),
            Ix::Div(a, b) => (format!("{}/{}", self.show_at(a, 1), self.show_at(b, 2)), 1),
            Ix::Min(a, b) => (
                format!("min({}, {})", self.show_at(a, 0), self.show_at(b, 0)),
                3,
            ),
        };
        if own < level {
            format!("({text})")
        } else {
            text
        }
    }

    fn print(&self, f: &mut fmt::Formatter<'_>, stmts: &[Stmt], depth: usize) -> fmt::Result {
        let pad = "    ".repeat(depth);
        for stmt in stmts {
            match stmt {
                Stmt::For {
                    var,
                    kind,
                    lo,
                    hi,
                    step,
                    body,
                } => {
                    let kind = match kind {
                        LoopKind::Core => "core".to_owned(),
                        LoopKind::Lane(w) => format!("lane({w})"),
                        LoopKind::Serial => "serial".to_owned(),
                        LoopKind::Team => "team".to_owned(),
                    };
                    let by = if *step == 1 {
                        String::new()
                    } else {
                        format!(" step {step}")
                    };
                    writeln!(
                        f,
                        "{pad}for {} in {kind} {}..{}{by} {{",
                        self.vars[var.0 as usize],
                        self.show(lo),
                        self.show(hi)
                    )?;
                    self.print(f, body, depth + 1)?;
                    writeln!(f, "{pad}}}")?;
                }
                Stmt::Let(var, ix) => writeln!(
                    f,
                    "{pad}let {} = {}",
                    self.vars[var.0 as usize],
                    self.show(ix)
                )?,
                Stmt::Set(reg, rhs) => {
                    write!(f, "{pad}r{}: {} = ", reg.0, self.ty(*reg).name())?;
                    match rhs {
                        Rhs::Const(x) => writeln!(f, "{x:?}")?,
                        Rhs::Bits(x) => writeln!(f, "{x:#x}")?,
                        Rhs::Index(ix) => writeln!(f, "index({})", self.show(ix))?,
                        Rhs::Load(buf, ix) => {
                            writeln!(f, "{}[{}]", self.buffer(*buf).name, self.show(ix))?
                        }
                        Rhs::LoadBits(buf, ix) => {
                            writeln!(f, "bits {}[{}]", self.buffer(*buf).name, self.show(ix))?
                        }
                        Rhs::Op(op, args) => {
                            writeln!(f, "{}({})", op.name(), names(args))?;
                        }
                    }
                }
                Stmt::Store(buf, ix, reg) => writeln!(
                    f,
                    "{pad}{}[{}] = r{}",
                    self.buffer(*buf).name,
                    self.show(ix),
                    reg.0
                )?,
                Stmt::StoreBits(buf, ix, reg) => writeln!(
                    f,
                    "{pad}bits {}[{}] = r{}",
                    self.buffer(*buf).name,
                    self.show(ix),
                    reg.0
                )?,
                Stmt::LoadRow(regs, buf, ix) => writeln!(
                    f,
                    "{pad}[{}] = {}[{}..]",
                    names(regs),
                    self.buffer(*buf).name,
                    self.show(ix)
                )?,
                Stmt::Fetch(row, buf, ix) => writeln!(
                    f,
                    "{pad}fetch w{} = {}[{}..]",
                    row.0,
                    self.buffer(*buf).name,
                    self.show(ix)
                )?,
                Stmt::Copy(to, at, from, ix, count) => writeln!(
                    f,
                    "{pad}copy {}[{}..] = {}[{}..] by {count}",
                    self.buffer(*to).name,
                    self.show(at),
                    self.buffer(*from).name,
                    self.show(ix)
                )?,
                Stmt::Sync => writeln!(f, "{pad}sync")?,
                Stmt::Arrive => writeln!(f, "{pad}arrive")?,
                Stmt::Wait => writeln!(f, "{pad}wait")?,
                Stmt::Meet => writeln!(f, "{pad}meet")?,
                Stmt::Prefetch(buf, ix) => writeln!(
                    f,
                    "{pad}prefetch {}[{}]",
                    self.buffer(*buf).name,
                    self.show(ix)
                )?,
                Stmt::Take(regs, row) => writeln!(f, "{pad}[{}] = w{}", names(regs), row.0)?,
                Stmt::StoreRow(buf, ix, regs) => writeln!(
                    f,
                    "{pad}{}[{}..] = [{}]",
                    self.buffer(*buf).name,
                    self.show(ix),
                    names(regs)
                )?,
                Stmt::If {
                    lhs,
                    rhs,
                    then,
                    els,
                } => {
                    writeln!(f, "{pad}if {} < {} {{", self.show(lhs), self.show(rhs))?;
                    self.print(f, then, depth + 1)?;
                    if !els.is_empty() {
                        writeln!(f, "{pad}}} else {{")?;
                        self.print(f, els, depth + 1)?;
                    }
                    writeln!(f, "{pad}}}")?;
                }
            }
        }
        Ok(())
    }
}

/// Registers as text.
fn names(regs: &[Reg]) -> String {
    let names: Vec<String> = regs.iter().map(|r| format!("r{}", r.0)).collect();
    names.join(", ")
}

impl LoopOp {
    /// Its name in printed loops.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            LoopOp::Math(op) => op.name().to_owned(),
            LoopOp::Fma => "fma".to_owned(),
            LoopOp::Round => "round".to_owned(),
            LoopOp::Copy => "copy".to_owned(),
            LoopOp::Bitcast => "bitcast".to_owned(),
            LoopOp::Convert => "convert".to_owned(),
            LoopOp::FromInt => "from_int".to_owned(),
            LoopOp::IAdd => "iadd".to_owned(),
            LoopOp::ISub => "isub".to_owned(),
            LoopOp::And => "and".to_owned(),
            LoopOp::Or => "or".to_owned(),
            LoopOp::Shl(k) => format!("shl{k}"),
            LoopOp::Shr(k) => format!("shr{k}"),
            LoopOp::Sar(k) => format!("sar{k}"),
            LoopOp::ILt => "ilt".to_owned(),
            LoopOp::Recip => "recip".to_owned(),
            LoopOp::ShuffleUp(k) => format!("shuffle_up{k}"),
            LoopOp::ShuffleXor(k) => format!("shuffle_xor{k}"),
            LoopOp::Broadcast(k) => format!("broadcast{k}"),
            LoopOp::FmaUp(k) => format!("fma_up{k}"),
            LoopOp::MulUp(k) => format!("mul_up{k}"),
        }
    }
}

impl fmt::Display for Proc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "proc {} {{", self.name)?;
        for b in &self.buffers {
            let role = match b.role {
                Role::Input(_) => "input",
                Role::Initial(_) => "initial",
                Role::Last(_) => "last",
                Role::Output(_) => "output",
                Role::Workspace(_) => "workspace",
                Role::Scratch => "scratch",
                Role::Shared => "shared",
                Role::Exchange => "exchange",
            };
            writeln!(
                f,
                "    {role} {}: {}[{}]",
                b.name,
                b.dtype,
                self.show(&b.len)
            )?;
        }
        self.print(f, &self.body, 1)?;
        writeln!(f, "}}")
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for proc in &self.procs {
            write!(f, "{proc}")?;
        }
        Ok(())
    }
}
