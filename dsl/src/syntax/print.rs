//! Prints a syntax tree as the text that parses to it.
//!
//! In: [`Kernel`] or [`Expr`]. Out: text with the fewest brackets, parameters on one line where they fit.

use std::fmt;

use quote::ToTokens;

use super::{Expr, ExprKind, Kernel, Name, Options, Param, Stmt, Type, UNARY, precedence, symbol};

/// The longest line of a signature.
const WIDTH: usize = 100;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.doc {
            writeln!(f, "{}", format!("/// {line}").trim_end())?;
        }
        writeln!(f, "#[ssm_kernel{}]", self.options)?;
        let vis = match &self.vis {
            syn::Visibility::Inherited => String::new(),
            vis => vis.to_token_stream().to_string().replace("pub (", "pub(") + " ",
        };
        let params: Vec<String> = self.params.iter().map(Param::to_string).collect();
        let outputs = match self.outputs.as_slice() {
            [one] => one.to_string(),
            several => format!("({})", comma(several)),
        };
        let head = format!("{vis}fn {}(", self.name);
        let line = format!("{head}{}) -> {outputs} {{", params.join(", "));
        if line.len() <= WIDTH {
            writeln!(f, "{line}")?;
        } else {
            writeln!(f, "{head}")?;
            for param in params {
                writeln!(f, "    {param},")?;
            }
            writeln!(f, ") -> {outputs} {{")?;
        }
        for stmt in &self.body {
            writeln!(f, "    {stmt}")?;
        }
        writeln!(f, "    {}\n}}", self.tail)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut args: Vec<String> = Vec::new();
        args.extend(self.time.iter().map(|t| format!("time = {t}")));
        args.extend(self.reverse.iter().map(|_| "reverse".to_owned()));
        args.extend(
            self.bidirectional
                .iter()
                .map(|_| "bidirectional".to_owned()),
        );
        args.extend(self.aliases.iter().map(|(a, of)| format!("{a} = {of}")));
        if args.is_empty() {
            return Ok(());
        }
        write!(f, "({})", args.join(", "))
    }
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reverse.is_some() {
            f.write_str("#[reverse] ")?;
        }
        if self.hidden.is_some() {
            f.write_str("#[hidden] ")?;
        }
        if let Some(init) = &self.init {
            write!(f, "#[init({init})] ")?;
        }
        write!(f, "{}: {}", self.name, self.ty)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes = match self.kind {
            super::TypeKind::Flag => String::new(),
            _ => format!("<{}>", comma(&self.axes)),
        };
        let ty = format!("{}{axes}", self.kind.name());
        if self.optional && self.kind != super::TypeKind::Flag {
            write!(f, "Option<{ty}>")
        } else {
            f.write_str(&ty)
        }
    }
}

impl fmt::Display for Stmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stmt::Let { names, value } => match names.as_slice() {
                [one] => write!(f, "let {one} = {value};"),
                several => write!(f, "let ({}) = {value};", comma(several)),
            },
            Stmt::Assign { state, value } => write!(f, "{state} = {value};"),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(f, 0)
    }
}

impl Expr {
    /// Prints it where an operation of precedence `outer` reads it.
    fn print(&self, f: &mut fmt::Formatter<'_>, outer: u8) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(x) => f.write_str(&number(*x)),
            ExprKind::Name(name) => f.write_str(name),
            ExprKind::Neg(x) => {
                f.write_str("-")?;
                x.print(f, UNARY)
            }
            ExprKind::Binary(op, x, y) => {
                let inner = precedence(*op);
                // Comparisons do not chain: `(a < b) < c` keeps its brackets on both sides.
                let left = if op.is_comparison() { inner + 1 } else { inner };
                if inner < outer {
                    f.write_str("(")?;
                }
                x.print(f, left)?;
                write!(f, " {} ", symbol(*op).unwrap_or(op.name()))?;
                y.print(f, inner + 1)?;
                if inner < outer {
                    f.write_str(")")?;
                }
                Ok(())
            }
            ExprKind::Call {
                function,
                axes,
                args,
            } => {
                let axes = if axes.is_empty() {
                    String::new()
                } else {
                    format!("::<{}>", comma(axes))
                };
                write!(f, "{function}{axes}({})", comma(args))
            }
            ExprKind::Tuple(xs) => write!(f, "({})", comma(xs)),
            ExprKind::Error => f.write_str("?"),
        }
    }
}

/// The shortest literal of a finite number that is not negative.
fn number(x: f64) -> String {
    if x.fract() == 0.0 && x < 1e15 {
        format!("{x}")
    } else {
        format!("{x:?}")
    }
}

fn comma<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(", ")
}
