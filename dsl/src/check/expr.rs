//! Expressions: names, numbers and operators.

use super::{Checker, Meaning, Value};
use crate::diagnostic::{Loc, nearest};
use crate::expr::{NodeId, Type, When};
use crate::functions;
use crate::op::Op;
use crate::recurrence::InputKind;
use crate::syntax::{Expr, ExprKind, Stmt, symbol};

impl Checker<'_> {
    /// The meaning of an expression.
    pub(super) fn value(&mut self, x: &Expr) -> Value {
        let node = match &x.kind {
            ExprKind::Error => None,
            ExprKind::Number(x) => Some(self.r.graph.constant(*x)),
            ExprKind::Name(name) => return self.read(name, x.loc),
            ExprKind::Neg(x) => self.negative(x),
            ExprKind::Binary(op, a, b) => {
                let operands = (self.number(a), self.number(b));
                match operands {
                    (Some(a), Some(b)) => self.apply(*op, &[a, b], x.loc),
                    _ => None,
                }
            }
            ExprKind::Tuple(xs) => {
                return Value::Tuple(xs.iter().map(|x| self.value(x)).collect());
            }
            ExprKind::Call {
                function,
                axes,
                args,
            } => return self.call(function, axes, args, x.loc),
        };
        node.map_or(Value::Poison, Value::Node)
    }

    /// `-x`; of a literal, the negative constant.
    fn negative(&mut self, x: &Expr) -> Option<NodeId> {
        let literal = match &x.kind {
            ExprKind::Number(value) => Some(*value),
            ExprKind::Name(name) if self.binding(name).is_none() => functions::constant(name),
            _ => None,
        };
        if let Some(value) = literal {
            return Some(self.r.graph.constant(-value));
        }
        let x = self.number(x)?;
        Some(self.r.graph.op(Op::Neg, &[x]))
    }

    /// The node of an expression that is not a tuple.
    pub(super) fn node(&mut self, x: &Expr) -> Option<NodeId> {
        match self.value(x) {
            Value::Node(node) => Some(node),
            Value::Poison => None,
            Value::Tuple(values) => {
                if !values.iter().any(|v| matches!(v, Value::Poison)) {
                    self.error(
                        x.loc,
                        format!("expected a number, found {} values", values.len()),
                        "take the tuple apart first: `let (a, b) = …;`",
                    );
                }
                None
            }
        }
    }

    /// The node of an expression that is a number.
    pub(super) fn number(&mut self, x: &Expr) -> Option<NodeId> {
        let node = self.node(x)?;
        self.real_or_complex(node, x.loc)
    }

    /// The node, unless it is a condition.
    pub(super) fn real_or_complex(&mut self, node: NodeId, loc: Loc) -> Option<NodeId> {
        if self.r.graph.ty(node) == Type::Bool {
            self.error(
                loc,
                "expected a number, found a condition",
                "choose numbers by it: `select(a < b, 1, 0)`",
            );
            return None;
        }
        Some(node)
    }

    /// Reads a name.
    fn read(&mut self, name: &str, loc: Loc) -> Value {
        let Some(binding) = self.binding(name) else {
            if let Some(value) = functions::constant(name) {
                return Value::Node(self.r.graph.constant(value));
            }
            self.unknown(name, loc);
            return Value::Poison;
        };
        binding.used = true;
        match binding.meaning.clone() {
            Meaning::Poison => Value::Poison,
            Meaning::Let(value) => value,
            Meaning::State(id) => {
                let when = if self.assigned[id.0 as usize].is_some() {
                    When::Next
                } else {
                    When::Prev
                };
                Value::Node(self.r.read_state(id, when))
            }
            Meaning::Input(id) if self.r.input(id).kind == InputKind::Flag => {
                self.error(
                    loc,
                    format!("flag `{name}` is not a number"),
                    format!("choose by it: `given({name}, x, y)`"),
                );
                Value::Poison
            }
            Meaning::Input(id) => Value::Node(self.r.read_input(id)),
        }
    }

    /// Reports a name that stands for nothing.
    pub(super) fn unknown(&mut self, name: &str, loc: Loc) {
        let later = self.kernel.body.iter().any(
            |stmt| matches!(stmt, Stmt::Let { names, .. } if names.iter().any(|n| n.text == name)),
        );
        if !self.syntax_is_right {
            return;
        }
        if later {
            self.error(
                loc,
                format!("`{name}` is used before it is defined"),
                "move its `let` up; what depends on its own earlier value is a state, a parameter `h: State<…>`",
            );
            return;
        }
        if super::call::is_function(name) {
            self.error(
                loc,
                format!("`{name}` is a function, not a value"),
                format!("call it with its arguments: `{name}(…)`"),
            );
            return;
        }
        let known: Vec<String> = self.scope.iter().map(|b| b.name.text.clone()).collect();
        let constants = functions::CONSTANTS.iter().map(|(n, _)| *n);
        let hint = nearest(name, known.iter().map(String::as_str).chain(constants));
        let help = match hint {
            Some(hint) => format!("did you mean `{hint}`?"),
            None => "declare it as a parameter or with `let`".to_owned(),
        };
        if let Some(binding) = hint.and_then(|hint| self.binding(hint)) {
            binding.used = true;
        }
        self.error(loc, format!("unknown name `{name}`"), help);
    }

    /// An operation, where the operands' types fit.
    pub(super) fn apply(&mut self, op: Op, operands: &[NodeId], loc: Loc) -> Option<NodeId> {
        let types: Vec<Type> = operands.iter().map(|&x| self.r.graph.ty(x)).collect();
        if op.result(&types).is_some() {
            return Some(self.r.graph.op(op, operands));
        }
        let name = symbol(op).unwrap_or(op.name());
        let (message, help) = match op {
            Op::Select => (
                "the first argument of `select` is a condition, and a number was found".to_owned(),
                "write a comparison: `select(x > 0, a, b)`",
            ),
            Op::Complex => (
                "`complex(re, im)` takes two real numbers, and a complex one was found".to_owned(),
                "complex numbers are added and multiplied as they are; take a part with `re(…)` or `im(…)`",
            ),
            _ if op.is_comparison() || matches!(op, Op::Min | Op::Max) => (
                format!("complex numbers have no order: `{name}` takes real numbers"),
                "compare a part or the magnitude: `re(…)`, `im(…)`, `abs(…)`",
            ),
            _ => (
                format!("`{name}` takes a real number, and a complex one was found"),
                "take a part or the magnitude first: `re(…)`, `im(…)`, `abs(…)`",
            ),
        };
        self.error(loc, message, help);
        None
    }
}
