//! Types of built-in kinds, from their schemas: policies are checked against them, not evaluated with them
//! (`k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`).
use super::{Field, ObjectType, Type, escape};
use crate::schema::{self, Schemas, StringFormat};
use std::sync::Arc;

/// The type of what a schema describes. Where a type holds itself, the inner one is [`Type::Dyn`].
pub fn of_schema(schemas: &Schemas, ty: &schema::Type) -> Type {
    Reader { schemas, within: Vec::new() }.read(ty)
}

struct Reader<'s> {
    schemas: &'s Schemas,
    /// The named types around, outermost first.
    within: Vec<Arc<str>>,
}

impl Reader<'_> {
    fn read(&mut self, ty: &schema::Type) -> Type {
        match ty {
            schema::Type::Ref(name) => self.named(name),
            schema::Type::Struct(of) if of.fields.is_empty() => Type::Dyn,
            schema::Type::Struct(of) => Type::Object(Arc::new(self.object(of))),
            schema::Type::Map(item) | schema::Type::AtomicMap(item) => Type::map(Type::String, self.read(item)),
            schema::Type::List(list) => Type::list(self.read(&list.item)),
            schema::Type::String(StringFormat::Bytes) => Type::Bytes,
            schema::Type::String(StringFormat::DateTime | StringFormat::MicroTime) => Type::Timestamp,
            schema::Type::String(_) => Type::String,
            schema::Type::Integer { .. } => Type::Int,
            schema::Type::Number => Type::Double,
            schema::Type::Boolean => Type::Bool,
            schema::Type::IntOrString | schema::Type::Quantity | schema::Type::Any => Type::Dyn,
        }
    }

    fn named(&mut self, name: &Arc<str>) -> Type {
        let schemas = self.schemas;
        let Some(definition) = schemas.get(name).filter(|_| !self.within.contains(name)) else { return Type::Dyn };
        self.within.push(name.clone());
        let ty = self.read(&definition.ty);
        self.within.pop();
        ty
    }

    fn object(&mut self, of: &schema::Struct) -> ObjectType {
        let fields = of.fields.iter().filter_map(|(name, field)| {
            let escaped = escape(name)?;
            Some((escaped.into(), Field { name: name.clone(), ty: self.read(&field.ty) }))
        });
        let fields = fields.collect();
        ObjectType { name: self.within.last().cloned().unwrap_or_else(|| "object".into()), fields }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GroupVersionKind;
    use crate::cel::Environment;

    #[test]
    fn a_built_in_kind_has_the_types_of_its_fields() {
        let schemas = Schemas::builtin();
        let kind = |group: &str, version: &str, kind: &str| {
            let definition = schemas.for_kind(&GroupVersionKind::new(group, version, kind)).unwrap();
            of_schema(schemas, &definition.ty)
        };
        let check = |ty: &Type, source: &str| {
            let program = Environment::new().variable("object", ty.clone()).compile(source);
            program.map(|program| program.result_type().clone()).map_err(|error| error.to_string())
        };
        let deployment = kind("apps", "v1", "Deployment");
        assert_eq!(check(&deployment, "object.spec.replicas <= 5"), Ok(Type::Bool));
        let images = "object.spec.template.spec.containers.all(c, c.image.startsWith('x'))";
        assert_eq!(check(&deployment, images), Ok(Type::Bool));
        assert_eq!(check(&deployment, "object.metadata.labels['a']"), Ok(Type::String));
        assert!(
            check(&deployment, "object.spec.maxReplicas < 5").unwrap_err().contains("undefined field 'maxReplicas'")
        );
        assert!(check(&deployment, "object.spec.replicas == 'five'").is_err());
        let definition = kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        assert_eq!(check(&definition, "object.spec.group == 'x'"), Ok(Type::Bool));
    }
}
