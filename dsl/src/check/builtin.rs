//! Functions that are no operation on points: reductions, data movement, delays and choices.

use super::remap::Obstacle;
use super::{Checker, Delay, Meaning};
use crate::axis::AxisId;
use crate::diagnostic::{Loc, nearest};
use crate::expr::{AxisIndex, InputId, Node, NodeId, ReduceOp, StateId, Type, When};
use crate::recurrence::{InputKind, StateDecl};
use crate::syntax::{Expr, ExprKind, Name};

/// The longest `delay`.
const MAX_DELAY: usize = 256;

impl Checker<'_> {
    /// A call of a built-in function with the right numbers of axes and arguments.
    pub(super) fn builtin(
        &mut self,
        name: &'static str,
        axes: &[Name],
        args: &[Expr],
        loc: Loc,
    ) -> Option<NodeId> {
        match name {
            "delay" => self.delay(&args[0], &args[1]),
            "given" => self.given(&args[0], &args[1], &args[2]),
            _ => {
                let values: Vec<Option<NodeId>> = args.iter().map(|x| self.number(x)).collect();
                let ids: Vec<Option<AxisId>> = axes.iter().map(|a| self.axis(a)).collect();
                let values: Vec<NodeId> = values.into_iter().collect::<Option<_>>()?;
                let ids: Vec<AxisId> = ids.into_iter().collect::<Option<_>>()?;
                match name {
                    "len" => self.position(name, &axes[0], Node::Extent(ids[0])),
                    "index" => self.position(name, &axes[0], Node::Index(ids[0])),
                    "sum" => self.reduce(ReduceOp::Sum, &axes[0], ids[0], values[0], loc),
                    "max" => self.reduce(ReduceOp::Max, &axes[0], ids[0], values[0], loc),
                    "alias" => self.alias(axes, &ids, values[0], args[0].loc),
                    "group" => self.group(axes, &ids, values[0], args[0].loc),
                    "push_front" => self.push(name, &axes[0], ids[0], &values, args),
                    _ => self.push(name, &axes[0], ids[0], &values, args),
                }
            }
        }
    }

    /// The axis of that name.
    fn axis(&mut self, name: &Name) -> Option<AxisId> {
        if let Some(axis) = self.axis_quietly(name) {
            return Some(axis);
        }
        let known: Vec<&str> = self.r.axes.iter().map(|a| a.name.as_str()).collect();
        let hint = match nearest(&name.text, known.iter().copied()) {
            Some(hint) => format!("did you mean `{hint}`?"),
            None => format!("axes are {}", known.join(", ")),
        };
        self.error(
            name.loc,
            format!("unknown axis `{name}`"),
            format!("{hint}; an alias is declared by `#[ssm_kernel({name} = N)]`"),
        );
        None
    }

    /// The axis of that name, if there is one.
    pub(super) fn axis_quietly(&mut self, name: &Name) -> Option<AxisId> {
        let axis = self.r.axis_named(&name.text)?;
        self.named_axes = self.named_axes.with(axis);
        Some(axis)
    }

    fn position(&mut self, function: &str, name: &Name, node: Node) -> Option<NodeId> {
        let (Node::Extent(axis) | Node::Index(axis)) = node else {
            return None;
        };
        if axis == self.r.time {
            self.error(
                name.loc,
                format!("`{function}` of the time axis is unknown: a sequence may come in pieces, or packed with others"),
                "count steps by a state: `n: State<>` and `n = n + 1;`",
            );
            return None;
        }
        Some(self.r.graph.add(node))
    }

    fn reduce(
        &mut self,
        op: ReduceOp,
        name: &Name,
        axis: AxisId,
        x: NodeId,
        loc: Loc,
    ) -> Option<NodeId> {
        if axis == self.r.time {
            self.error(
                name.loc,
                format!("`{name}` is the time axis, which is not reduced"),
                "what adds up over time is a state: `s = s + x;`",
            );
            return None;
        }
        if !self.r.graph.axes(x).contains(axis) {
            let has = self.show(self.r.graph.axes(x));
            let has = if has.is_empty() {
                "no axis".to_owned()
            } else {
                has
            };
            self.error(
                name.loc,
                format!("the value does not vary over `{name}`: it has {has}"),
                format!(
                    "reduce an axis that it has; to repeat a value, multiply by `len::<{name}>()`"
                ),
            );
            return None;
        }
        if op == ReduceOp::Max && self.r.graph.ty(x) == Type::Complex {
            self.error(
                loc,
                "complex numbers have no order: `max` takes real numbers",
                "compare a part or the magnitude: `re(…)`, `im(…)`, `abs(…)`",
            );
            return None;
        }
        Some(self.r.graph.add(Node::Reduce { op, axis, x }))
    }

    /// The axes of `alias` and `group` fit the value: it has the first and not the second.
    fn movable(&mut self, axes: &[Name], ids: &[AxisId], x: NodeId) -> Option<()> {
        if let Some(i) = ids.iter().position(|&a| a == self.r.time) {
            self.error(
                axes[i].loc,
                format!("`{}` is the time axis", axes[i]),
                "a value at an earlier step is `delay(x, k)`",
            );
            return None;
        }
        let has = self.r.graph.axes(x);
        if !has.contains(ids[0]) {
            let found = self.show(has);
            let found = if found.is_empty() {
                "no axis".to_owned()
            } else {
                found
            };
            self.error(
                axes[0].loc,
                format!("the value does not vary over `{}`: it has {found}", axes[0]),
                "name an axis that the value has first",
            );
            return None;
        }
        if has.contains(ids[1]) {
            self.error(
                axes[1].loc,
                format!("the value varies over `{}` already", axes[1]),
                "declare a further alias of the axis and use that",
            );
            return None;
        }
        Some(())
    }

    fn alias(&mut self, axes: &[Name], ids: &[AxisId], x: NodeId, loc: Loc) -> Option<NodeId> {
        if self.r.canonical(ids[0]) != self.r.canonical(ids[1]) {
            let (from, to) = (&axes[0], &axes[1]);
            self.error(
                to.loc,
                format!("`{to}` is not an alias of `{from}`"),
                format!("declare that they have the same extent: `#[ssm_kernel({to} = {from})]`"),
            );
            return None;
        }
        self.movable(axes, ids, x)?;
        let moved = self.remap(x, ids[0], AxisIndex::At(ids[1]));
        self.moved(moved, axes, loc)
    }

    fn group(&mut self, axes: &[Name], ids: &[AxisId], x: NodeId, loc: Loc) -> Option<NodeId> {
        self.movable(axes, ids, x)?;
        let to = AxisIndex::Group {
            of: ids[1],
            groups: ids[0],
        };
        let moved = self.remap(x, ids[0], to);
        self.moved(moved, axes, loc)
    }

    fn moved(
        &mut self,
        moved: Result<NodeId, Obstacle>,
        axes: &[Name],
        loc: Loc,
    ) -> Option<NodeId> {
        let (message, help) = match moved {
            Ok(node) => return Some(node),
            Err(Obstacle::Reduced) => (
                format!("the value is reduced over `{}` inside", axes[1]),
                "declare a further alias of the axis and use that".to_owned(),
            ),
            Err(Obstacle::GroupedState(name)) => (
                format!("`group` reads inputs, and this value reads state `{name}`"),
                format!(
                    "group inputs before they meet a state: `delay(group::<G, H>(x), 1)`; or declare `{name}` over `{}`",
                    axes[1]
                ),
            ),
            Err(Obstacle::Position) => (
                format!(
                    "this value depends on the position on `{}`, and cannot be grouped",
                    axes[0]
                ),
                "group the inputs that it is made from".to_owned(),
            ),
        };
        self.error(loc, message, help);
        None
    }

    fn push(
        &mut self,
        function: &str,
        name: &Name,
        axis: AxisId,
        values: &[NodeId],
        args: &[Expr],
    ) -> Option<NodeId> {
        let (x, fill) = (values[0], values[1]);
        if !matches!(
            self.r.graph.node(x),
            Node::State { .. } | Node::Input { .. }
        ) {
            self.error(
                args[0].loc,
                format!("`{function}` shifts a state or an input"),
                "shift first and compute then, or make the value a state of its own",
            );
            return None;
        }
        if axis == self.r.time {
            self.error(
                name.loc,
                format!("`{name}` is the time axis"),
                "a value at an earlier step is `delay(x, k)`",
            );
            return None;
        }
        if !self.r.graph.axes(x).contains(axis) {
            let found = self.show(self.r.graph.axes(x));
            self.error(
                name.loc,
                format!("the value does not vary over `{name}`: it has {found}"),
                "shift along an axis that it has",
            );
            return None;
        }
        if self.r.graph.axes(fill).contains(axis) {
            self.error(
                args[1].loc,
                format!("what enters at the end of `{name}` varies over `{name}` itself"),
                format!("push one value for the whole axis, for example `sum::<{name}>(…)`"),
            );
            return None;
        }
        if self.r.graph.ty(fill) == Type::Complex && self.r.graph.ty(x) == Type::Real {
            self.error(
                args[1].loc,
                "a complex value is pushed into a real one",
                "take a part, `re(…)`, or declare the state as `ComplexState<…>`",
            );
            return None;
        }
        let by = if function == "push_front" { 1 } else { -1 };
        Some(self.r.graph.add(Node::Shift { axis, by, x, fill }))
    }

    /// `delay(x, k)`: a chain of k hidden states.
    fn delay(&mut self, x: &Expr, steps: &Expr) -> Option<NodeId> {
        let value = self.number(x);
        let k = match &steps.kind {
            ExprKind::Number(k) if k.fract() == 0.0 && *k >= 1.0 => *k,
            ExprKind::Error => return None,
            _ => {
                self.error(
                    steps.loc,
                    "`delay` takes a number of steps that is a literal, 1 or more",
                    "write `delay(x, 1)`; for no delay write `x`",
                );
                return None;
            }
        };
        if k > MAX_DELAY as f64 {
            self.error(
                steps.loc,
                format!("a delay is at most {MAX_DELAY} steps: each is a value to keep"),
                "keep a window as a state over an axis of its own, with `push_front::<K>(w, x)`",
            );
            return None;
        }
        let (value, k) = (value?, k as usize);
        let base = match &x.kind {
            ExprKind::Name(name) => name.as_str(),
            _ => "value",
        };
        let chain = match self.delays.iter().position(|d| d.x == value) {
            Some(chain) => chain,
            None => {
                self.delays.push(Delay {
                    x: value,
                    states: Vec::new(),
                });
                self.delays.len() - 1
            }
        };
        while self.delays[chain].states.len() < k {
            let done = self.delays[chain].states.len();
            let update = match self.delays[chain].states.last() {
                Some(&last) => self.r.read_state(last, When::Prev),
                None => value,
            };
            let state = self.hidden(&format!("{base}_delay{}", done + 1), value, update);
            self.delays[chain].states.push(state);
        }
        let last = self.delays[chain].states[k - 1];
        Some(self.r.read_state(last, When::Prev))
    }

    /// Declares a hidden state like `x` with its next value.
    fn hidden(&mut self, name: &str, x: NodeId, update: NodeId) -> StateId {
        let time = self.r.time;
        let axes: Vec<AxisId> = match self.r.graph.node(x) {
            Node::Input { index, .. } | Node::State { index, .. } => {
                index.iter().map(|i| i.axis()).collect()
            }
            _ => self.r.graph.axes(x).iter().collect(),
        };
        let decl = StateDecl {
            name: self.fresh(name),
            axes: axes.into_iter().filter(|&a| a != time).collect(),
            complex: self.r.graph.ty(x) == Type::Complex,
            reverse: self.backward,
            hidden: true,
            init: 0.0,
            update,
            update_im: None,
        };
        self.r.states.push(decl);
        self.assigned
            .push(self.inlined.or(Some(self.kernel.name.loc)));
        let id = StateId(self.r.states.len() as u32 - 1);
        self.order.push(id);
        id
    }

    /// Marks the name as used.
    pub(super) fn mark(&mut self, x: &Expr) {
        if let ExprKind::Name(name) = &x.kind
            && let Some(binding) = self.binding(name)
        {
            binding.used = true;
        }
    }

    fn given(&mut self, z: &Expr, present: &Expr, absent: &Expr) -> Option<NodeId> {
        let input = self.choice(z);
        let (present, absent) = (self.number(present), self.number(absent));
        let (input, present, absent) = (input?, present?, absent?);
        Some(self.r.graph.add(Node::Given {
            input,
            present,
            absent,
        }))
    }

    /// The optional input or flag that `given` asks for.
    fn choice(&mut self, z: &Expr) -> Option<InputId> {
        let help = "ask for a parameter `z: Option<Tensor<…>>` or `z: Flag`";
        let ExprKind::Name(name) = &z.kind else {
            if z.kind != ExprKind::Error {
                self.error(
                    z.loc,
                    "`given` asks for the name of an optional input",
                    help,
                );
            }
            return None;
        };
        self.mark(z);
        match self.binding(name).map(|b| b.meaning.clone()) {
            Some(Meaning::Input(id))
                if self.r.input(id).optional || self.r.input(id).kind == InputKind::Flag =>
            {
                Some(id)
            }
            Some(Meaning::Input(_)) => {
                self.error(
                    z.loc,
                    format!("input `{name}` is always given"),
                    format!("declare it as `{name}: Option<Tensor<…>>`, or leave `given` out"),
                );
                None
            }
            Some(Meaning::Poison) => None,
            Some(Meaning::Let(_) | Meaning::State(_)) => {
                self.error(z.loc, format!("`{name}` is not an optional input"), help);
                None
            }
            None => {
                self.unknown(name, z.loc);
                None
            }
        }
    }
}
