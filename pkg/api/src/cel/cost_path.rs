//! Where a part of an expression stands in the schema, as the reference implementation remembers it.
//!
//! There, paths are slices that are appended to, and those of one variable share their memory where it has room: what
//! `x.b` stands for becomes `x.a` when that is looked at next, and `x.b.all(...)` is sized as `x.a`. Verdicts come from it,
//! so it is done alike.
use super::bounds::{Bounds, Step};
use std::cell::RefCell;
use std::rc::Rc;

/// A path, as the first `length` steps of a memory that others may write to.
#[derive(Clone, Default)]
pub struct Path {
    memory: Rc<RefCell<Vec<Step>>>,
    length: usize,
}

impl Path {
    /// That of a variable.
    pub fn root() -> Self {
        Self::default().to(Step::Position)
    }

    /// One step more: behind this path if there is room, else in memory of its own that is twice as large.
    pub fn to(&self, step: Step) -> Self {
        let room = self.memory.borrow().len();
        let memory = match self.length < room {
            true => self.memory.clone(),
            false => {
                let mut copied = self.memory.borrow()[..self.length].to_vec();
                copied.resize((2 * room).max(1), Step::Position);
                Rc::new(RefCell::new(copied))
            }
        };
        memory.borrow_mut()[self.length] = step;
        Self { memory, length: self.length + 1 }
    }

    /// What the schema says there now. The first step names the variable, which stands for the root.
    pub fn bounds<'b>(&self, root: &'b Bounds) -> Option<&'b Bounds> {
        let steps = self.memory.borrow();
        let (_, steps) = steps[..self.length].split_first()?;
        steps.iter().try_fold(root, |bounds, step| bounds.step(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_one_variable_share_their_memory() {
        let item = json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 2}, "b": {"type": "array", "maxItems": 3, "items": {"type": "integer"}}}});
        let schema = json!({"type": "object", "properties": {"list": {"type": "array", "items": item}}});
        let root = Bounds::of(&schema, false).unwrap();
        let field = |name: &str| Step::Field(name.into());
        let variable = Path::root().to(field("list")).to(Step::Element);
        let most = |path: &Path| path.bounds(&root).map(|bounds| bounds.most);
        let b = variable.to(field("b"));
        assert_eq!(most(&b), Some(3));
        assert_eq!((most(&variable.to(field("a"))), most(&b)), (Some(8), Some(8)));
        assert_eq!((most(&variable.to(field("c"))), most(&Path::default())), (None, None));
    }
}
