use super::*;
use serde_json::json;

/// What the expression yields with this `self`, as JSON or as the error's text.
fn of(source: &str, given: &serde_json::Value) -> Result<serde_json::Value, String> {
    let program = Environment::new().variable("self", Type::Dyn).compile(source).map_err(|e| e.to_string())?;
    let variables = Variables::new().with("self", Value::of(given));
    program.evaluate(&variables, &mut Budget::default()).map(|v| v.to_json()).map_err(|e| e.to_string())
}

fn holds(source: &str) {
    assert_eq!(of(source, &json!({})), Ok(json!(true)), "{source}");
}

#[test]
fn the_language() {
    for source in [
        "1 + 2 * 3 == 7",
        "'a' + 'b' == 'ab'",
        "[1, 2] + [3] == [1, 2, 3]",
        "{'a': 1}.a == 1",
        "{'a': 1}['a'] == 1",
        "1 < 2.5",
        "dyn(1) == dyn(1.0)",
        "!false || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "true ? true : 1 / 0 == 1",
        "2 in [1, 2]",
        "'a' in {'a': 1}",
        "size('äö') == 2",
        "type(1) == int",
        "type('a') != type(1u)",
        "[1, 2, 3].all(x, x > 0)",
        "[1, 2, 3].exists(x, x == 2)",
        "[1, 2, 3].exists_one(x, x == 2)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6]",
        "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "[1, 2, 3].filter(x, x > 1) == [2, 3]",
        "{'a': 1, 'b': 2}.all(k, k != 'c')",
        "[[1], [2]].map(x, x.map(y, y + 1)) == [[2], [3]]",
        "has({'a': 1}.a) && !has({'a': 1}.b)",
        "int('5') == 5 && string(5) == '5' && double('1.5') == 1.5 && string(1.0) == '1'",
        "'a' <= 'b'",
        "duration('1h') > duration('59m')",
        "timestamp('2020-01-01T00:00:00Z').getFullYear() == 2020",
        "timestamp('2020-01-02T00:00:00Z') - timestamp('2020-01-01T00:00:00Z') == duration('24h')",
        "string(duration('1m30s')) == '90s'",
        "b'abc' == bytes('abc')",
    ] {
        holds(source);
    }
}

#[test]
fn kubernetes_libraries() {
    for source in [
        "'abc'.matches('^a') && 'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')",
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "'Abc'.lowerAscii() == 'abc'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'aXbX'.replace('X', '-') == 'a-b-'",
        "'%s has %d of %.2f'.format([dyn('a'), 5, 1.0]) == 'a has 5 of 1.00'",
        "'a1b22'.find('[0-9]+') == '1' && 'a1b22'.findAll('[0-9]+') == ['1', '22']",
        "[3, 1, 2].max() == 3 && [3, 1].sum() == 4 && [1, 2].isSorted() && [1, 2, 1].lastIndexOf(1) == 2",
        "[1, 1, 2].distinct() == [1, 2] && [2, 1].sort() == [1, 2] && [[1], [2]].flatten() == [1, 2]",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('50k').asInteger() == 50000",
        "quantity('1').add(2).compareTo(quantity('3')) == 0 && isQuantity('1Ki') && !isQuantity('x')",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && ip('127.0.0.1').isLoopback() && !isIP('1.2.3')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8",
        "string(cidr('10.1.2.3/8').ip()) == '10.1.2.3'",
        "url('https://example.com:80/a?b=c').getHost() == 'example.com:80' && isURL('/path') && !isURL('no url')",
        "url('https://[::1]:80/a%20b?b=c&b=d').getHostname() == '::1'",
        "url('https://h/a%20b?b=c&b=d').getEscapedPath() == '/a%20b' && url('https://h/?b=c&b=d').getQuery()['b'] == ['c', 'd']",
        "!format.dns1123Label().validate('abc').hasValue() && format.dns1123Label().validate('A').hasValue()",
        "format.named('uuid').hasValue() && !format.named('none').hasValue()",
        "semver('1.10.0').isGreaterThan(semver('1.9.0')) && !isSemver('1') && isSemver('v1', true)",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
        "optional.of(1).hasValue() && optional.none().orValue(3) == 3 && {'a': 1}.?b.orValue(2) == 2",
        "{'a': 1}[?'a'].optMap(x, x + 1).value() == 2",
        "[1, 2].transformList(i, v, i + v) == [1, 3]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && [5].all(i, v, i == 0 && v == 5)",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ] {
        holds(source);
    }
}

#[test]
fn json_is_read_in_place() {
    let given = json!({"spec": {"replicas": 3, "ports": [{"port": 80}, {"port": 443}], "labels": {"a": "b"}}});
    assert_eq!(of("self.spec.ports.map(p, p.port)", &given), Ok(json!([80, 443])));
    assert_eq!(of("self.spec.replicas <= 5 && self.spec.labels.a == 'b'", &given), Ok(json!(true)));
    assert_eq!(of("has(self.spec.nothing)", &given), Ok(json!(false)));
    assert_eq!(of("self.spec.nothing", &given), Err("no such key: nothing".into()));
    assert_eq!(of("self.spec.ports[2]", &given), Err("index out of bounds: 2".into()));
    assert_eq!(of("Object{spec: Object.spec{replicas: 1}}", &given), Ok(json!({"spec": {"replicas": 1}})));
}

#[test]
fn what_is_wrong_is_pointed_at() {
    let fails = |source: &str, expected: &str| assert_eq!(of(source, &json!({})), Err(expected.into()));
    fails("foo", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^");
    fails(
        "1 + 'a'",
        "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
    );
    fails(
        "'a'.size(1)",
        "ERROR: <input>:1:9: found no matching overload for 'size' applied to 'string.(int)'\n | 'a'.size(1)\n | ........^",
    );
    fails(
        "1 == 1.0",
        "ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, double)'\n | 1 == 1.0\n | ..^",
    );
    assert!(
        of("1 +", &json!({})).unwrap_err().starts_with("ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>'")
    );
}

#[test]
fn declared_objects_have_only_their_fields() {
    let schema = json!({"type": "object", "properties": {
        "size": {"type": "integer"}, "share": {"type": "number"}, "at": {"type": "string", "format": "date-time"},
        "with-dash": {"type": "string"}, "namespace": {"type": "string"}, "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "any": {"x-kubernetes-preserve-unknown-fields": true}, "port": {"x-kubernetes-int-or-string": true},
    }});
    let environment = Environment::new().variable("self", declared(&schema, "selfType", true).unwrap());
    let given =
        json!({"size": 1, "share": 2, "at": "2020-01-01T00:00:00Z", "with-dash": "x", "namespace": "n", "port": 80});
    let ty = declared(&schema, "selfType", true).unwrap();
    let check = |source: &str| {
        let program = environment.compile(source).unwrap();
        let variables = Variables::new().with("self", Value::typed(&given, &ty));
        assert_eq!(program.evaluate(&variables, &mut Budget::default()), Ok(Value::Bool(true)), "{source}");
    };
    check("self.size == 1 && self.share == 2.0 && self.at.getFullYear() == 2020 && self.port == 80");
    check("self.with__dash__dash == 'x'");
    check("self.__namespace__ == 'n'");
    let undefined = environment.compile("self.sizes > 1").unwrap_err().to_string();
    assert_eq!(undefined, "ERROR: <input>:1:5: undefined field 'sizes'\n | self.sizes > 1\n | ....^");
    assert!(environment.compile("self.any == 1").is_err());
    assert!(environment.compile("self.metadata.name == 'a' && self.kind == 'A'").is_ok());
}

#[test]
fn no_expression_runs_for_long() {
    let list: Vec<u32> = (0..200).collect();
    let source = "self.all(a, self.all(b, self.all(c, self.all(d, a + b + c + d >= 0))))";
    assert_eq!(of(source, &json!(list)), Err(Error::CostExceeded.to_string()));
    let mut budget = Budget::new(10);
    let program = Environment::new().compile("[1, 2, 3].map(x, x).size() == 3").unwrap();
    assert_eq!(program.evaluate(&Variables::new(), &mut budget), Err(Error::CostExceeded));
    assert!(of(&"(".repeat(200), &json!({})).is_err());
}

#[test]
fn escaped_names() {
    assert_eq!(escape("a-b.c/d__e").as_deref(), Some("a__dash__b__dot__c__slash__d__underscores__e"));
    assert_eq!(escape("in").as_deref(), Some("__in__"));
    assert_eq!((escape("a b"), escape("1a"), escape("")), (None, None, None));
}
