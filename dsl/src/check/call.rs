//! Calls: reductions, data movement, delays, choices, operations and the functions of [`crate::functions`].

use super::{Binding, Checker, Meaning, Value};
use crate::diagnostic::{Loc, nearest};
use crate::expr::NodeId;
use crate::functions::{self, Function};
use crate::op::{Op, TABLE};
use crate::syntax::{Expr, Name};

/// Functions that are no operation on points: name, number of axes, number of arguments, how it is written.
const BUILTINS: &[(&str, usize, usize, &str)] = &[
    ("sum", 1, 1, "sum::<N>(x)"),
    ("max", 1, 1, "max::<N>(x)"),
    ("len", 1, 0, "len::<N>()"),
    ("index", 1, 0, "index::<N>()"),
    ("alias", 2, 1, "alias::<N, N2>(x)"),
    ("group", 2, 1, "group::<G, H>(x)"),
    ("push_front", 1, 2, "push_front::<N>(h, x)"),
    ("push_back", 1, 2, "push_back::<N>(h, x)"),
    ("delay", 0, 2, "delay(x, 1)"),
    ("given", 0, 3, "given(z, x, y)"),
];

/// Whether a function has that name.
pub(super) fn is_function(name: &str) -> bool {
    BUILTINS.iter().any(|row| row.0 == name)
        || Op::from_name(name).is_some()
        || functions::names().any(|f| f == name)
}

/// What a call means.
enum Callee {
    Builtin(&'static str),
    Op(Op),
    Function(Function),
}

impl Checker<'_> {
    /// The meaning of a call.
    pub(super) fn call(&mut self, name: &Name, axes: &[Name], args: &[Expr], loc: Loc) -> Value {
        let Some(callee) = self.callee(name, axes, args) else {
            // The arguments are read all the same: what they use is used, what is wrong in them is wrong.
            let choice = usize::from(name.text == "given");
            for arg in args.iter().take(choice) {
                self.mark(arg);
            }
            for arg in args.iter().skip(choice) {
                self.value(arg);
            }
            for axis in axes {
                self.axis_quietly(axis);
            }
            return Value::Poison;
        };
        let node = match callee {
            Callee::Builtin(name) => self.builtin(name, axes, args, loc),
            Callee::Op(op) => self.operation(op, args, loc),
            Callee::Function(function) => return self.inline(&function, args, loc),
        };
        node.map_or(Value::Poison, Value::Node)
    }

    /// What is called, with the right numbers of axes and arguments.
    fn callee(&mut self, name: &Name, axes: &[Name], args: &[Expr]) -> Option<Callee> {
        let text = name.text.as_str();
        let builtin = BUILTINS.iter().find(|row| row.0 == text);
        let op = Op::from_name(text);
        let (callee, n_axes, n_args, usage) = match (builtin, op) {
            (_, Some(op)) if builtin.is_none() || axes.is_empty() && args.len() != 1 => {
                let params = ["x", "y", "z"][..op.arity()].join(", ");
                (Callee::Op(op), 0, op.arity(), format!("{text}({params})"))
            }
            (Some((name, n_axes, n_args, usage)), _) => {
                (Callee::Builtin(name), *n_axes, *n_args, (*usage).to_owned())
            }
            _ => match functions::find(text) {
                Some(function) => {
                    let usage = format!("{text}({})", function.params.join(", "));
                    let n_args = function.params.len();
                    (Callee::Function(function), 0, n_args, usage)
                }
                None => {
                    self.unknown_function(name);
                    return None;
                }
            },
        };
        if axes.len() != n_axes {
            let found = axes.len();
            let plural = if n_axes == 1 { "axis" } else { "axes" };
            let message = match n_axes {
                0 => format!("`{text}` takes no axis, found {found}"),
                _ => format!("`{text}` takes {n_axes} {plural} in `::<…>`, found {found}"),
            };
            self.error(name.loc, message, format!("write `{usage}`"));
            return None;
        }
        if args.len() != n_args {
            let found = args.len();
            let plural = if n_args == 1 { "argument" } else { "arguments" };
            self.error(
                name.loc,
                format!("`{text}` takes {n_args} {plural}, found {found}"),
                format!("write `{usage}`"),
            );
            return None;
        }
        Some(callee)
    }

    fn unknown_function(&mut self, name: &Name) {
        if let Some(binding) = self.binding(&name.text) {
            binding.used = true;
            self.error(
                name.loc,
                format!("`{name}` is a value, not a function"),
                format!("a name is its value at this step: write `{name}`; an earlier one is `delay({name}, 1)`"),
            );
            return;
        }
        let builtins = BUILTINS.iter().map(|row| row.0);
        let ops = TABLE.iter().map(|row| row.name);
        let all: Vec<&str> = builtins.chain(ops).chain(functions::names()).collect();
        let last = name.text.rsplit("::").next().unwrap_or(&name.text);
        let renamed = match last {
            "ln" | "log_e" => Some("log"),
            "swish" => Some("silu"),
            "logistic" => Some("sigmoid"),
            "exp_m1" => Some("expm1"),
            "maximum" => Some("max"),
            "minimum" => Some("min"),
            "where" | "if_else" => Some("select"),
            "shift" | "lag" => Some("delay"),
            "mean" => Some("sum"),
            _ => all
                .iter()
                .find(|f| f.rsplit("::").next() == Some(last))
                .copied(),
        };
        let help = match renamed
            .or_else(|| nearest(&name.text, all.iter().copied()))
            .or_else(|| nearest(last, all.iter().copied()))
        {
            Some(hint) => format!("did you mean `{hint}`?"),
            None => format!("functions are {}", all.join(", ")),
        };
        self.error(name.loc, format!("unknown function `{name}`"), help);
    }

    fn operation(&mut self, op: Op, args: &[Expr], loc: Loc) -> Option<NodeId> {
        let operands: Vec<Option<NodeId>> = args
            .iter()
            .enumerate()
            .map(|(i, arg)| {
                if op == Op::Select && i == 0 {
                    self.node(arg)
                } else {
                    self.number(arg)
                }
            })
            .collect();
        let operands: Vec<NodeId> = operands.into_iter().collect::<Option<_>>()?;
        self.apply(op, &operands, loc)
    }

    /// The body of a function with its parameters standing for the arguments.
    fn inline(&mut self, function: &Function, args: &[Expr], loc: Loc) -> Value {
        let values: Vec<Option<NodeId>> = args.iter().map(|arg| self.number(arg)).collect();
        if values.iter().any(Option::is_none) {
            return Value::Poison;
        }
        let inner = function
            .params
            .iter()
            .zip(values)
            .map(|(name, value)| Binding {
                name: Name::made(name),
                meaning: value.map_or(Meaning::Poison, |v| Meaning::Let(Value::Node(v))),
                used: true,
            })
            .collect();
        let outer = std::mem::replace(&mut self.scope, inner);
        let place = self.inlined;
        self.inlined = place.or(Some(loc));
        let value = self.value(&function.body);
        self.inlined = place;
        self.scope = outer;
        value
    }
}
