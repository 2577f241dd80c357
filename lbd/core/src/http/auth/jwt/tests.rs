use std::time::Duration;

use common::config::{FileAt, Place};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn token(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}.{}", part(header), part(claims), BASE64URL_NOPAD.encode(b"signature"))
}

fn wanted() -> JwtAuth {
    JwtAuth {
        keys: FileAt { path: "keys".into(), key: "", place: Place::default() },
        realm: "shop".to_owned(),
        issuers: vec!["https://a".to_owned(), "https://b".to_owned()],
        audiences: vec!["shop".to_owned(), "api".to_owned()],
        leeway: Duration::from_secs(30),
        claims: Vec::new(),
    }
}

fn checked(claims: Value, wanted: &JwtAuth) -> Result<(), Denied> {
    let text = token(&json!({ "alg": "HS256" }), &claims);
    let claims = Unverified::parse(text.as_bytes()).unwrap().claims().unwrap();
    claims.check(wanted, UnixTime::from_nanos(1_000_000 * 1_000_000_000))
}

fn refused(header: &Value) -> Denied {
    Unverified::parse(token(header, &json!({})).as_bytes()).unwrap_err()
}

/// The example of RFC 7515, appendix A.1.
#[test]
fn a_token_is_taken_apart() {
    let text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly\
                9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let token = Unverified::parse(text.as_bytes()).unwrap();
    assert_eq!((token.algorithm, &token.key_id, token.signature.len()), (Algorithm::Hs256, &None, 32));
    assert_eq!(token.signed, &text.as_bytes()[..text.rfind('.').unwrap()]);
    let told = token
        .claims()
        .unwrap()
        .told(&[
            ("iss".to_owned(), "X-Issuer".to_owned()),
            ("exp".to_owned(), "X-Exp".to_owned()),
            ("sub".to_owned(), "X-Sub".to_owned()),
        ])
        .unwrap();
    let expected = [("X-Issuer", "joe"), ("X-Exp", "1300819380")];
    assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn what_is_no_token_is_refused() {
    for bad in ["", ".", "..", "a.b.c", "e30.e30", "e30.e30.e30.e30", "e30=.e30.", "W10.e30.", "e30.e30.!"] {
        assert_eq!(Unverified::parse(bad.as_bytes()).unwrap_err(), Denied::Malformed, "{bad}");
    }
    assert_eq!(refused(&json!({})), Denied::Malformed);
    assert_eq!(refused(&json!({ "alg": 5 })), Denied::Malformed);
    assert_eq!(refused(&json!({ "alg": "HS256", "crit": ["exp"] })), Denied::Malformed);
    assert_eq!(refused(&json!({ "alg": "HS256", "kid": 5 })), Denied::Malformed);
    for name in ["none", "None", "NONE", "hs256", "", "RS1", "HS256 "] {
        assert_eq!(refused(&json!({ "alg": name })), Denied::Algorithm, "{name}");
    }
    let long = format!("e30.{}.e30", "a".repeat(TOKEN_BYTES_MAX));
    assert_eq!(Unverified::parse(long.as_bytes()).unwrap_err(), Denied::Malformed);
}

#[test]
fn a_key_is_for_its_own_algorithm_alone() {
    let key = |id: Option<&str>, algorithm| KeyInfo { id: id.map(str::to_owned), algorithm };
    let keys = [
        key(Some("a"), Algorithm::Rs256),
        key(Some("b"), Algorithm::Rs256),
        key(None, Algorithm::Rs256),
        key(Some("a"), Algorithm::Es256),
    ];
    let candidates =
        |header: Value| Unverified::parse(token(&header, &json!({})).as_bytes()).unwrap().candidates(&keys);
    assert_eq!(
        candidates(json!({ "alg": "HS256", "kid": "a" })),
        Err(Denied::Algorithm),
        "no public key is a secret"
    );
    assert_eq!(candidates(json!({ "alg": "RS256", "kid": "a" })), Ok(vec![0, 2]));
    assert_eq!(candidates(json!({ "alg": "RS256" })), Ok(vec![0, 1, 2]));
    assert_eq!(candidates(json!({ "alg": "ES256", "kid": "x" })), Err(Denied::Signature));
    assert_eq!(candidates(json!({ "alg": "ES256", "kid": "a" })), Ok(vec![3]));
}

#[test]
fn no_key_is_left_out_for_its_place_in_the_file() {
    let key = |id: Option<&str>, algorithm| KeyInfo { id: id.map(str::to_owned), algorithm };
    let (rsa, ec) = (Algorithm::Rs256, Algorithm::Es256);
    let names = ["a", "b", "c", "d", "e", "f"];
    let named: Vec<KeyInfo> = names.into_iter().map(|name| key(Some(name), rsa)).collect();
    assert_eq!(check_names(&named), Ok(()));
    let candidates =
        |header: Value| Unverified::parse(token(&header, &json!({})).as_bytes()).unwrap().candidates(&named);
    assert_eq!(candidates(json!({ "alg": "RS256", "kid": "f" })), Ok(vec![5]));
    assert_eq!(candidates(json!({ "alg": "RS256" })), Err(Denied::KeyUnnamed), "not the first four alone");
    let unnamed = |count: usize| vec![key(None, ec); count];
    assert_eq!(check_names(&unnamed(4)), Ok(()));
    let error = Err(KeyError::Unnamed { count: 5, algorithm: "ES256" });
    assert_eq!(check_names(&unnamed(5)), error);
    assert_eq!(
        check_names(&[&unnamed(4)[..], &[key(Some("a"), rsa)]].concat()),
        Ok(()),
        "for something else"
    );
    let some = [key(Some("a"), ec), key(Some("a"), ec), key(Some("b"), ec)];
    assert_eq!(check_names(&[&unnamed(2)[..], &some].concat()), Ok(()));
    assert_eq!(check_names(&[&unnamed(3)[..], &some].concat()), error);
}

#[test]
fn claims_are_for_here_and_now() {
    let fine = json!({ "exp": 1_000_100, "iss": "https://b", "aud": ["x", "api"] });
    let with = |name: &str, value: Value| {
        let mut claims = fine.clone();
        claims[name] = value;
        checked(claims, &wanted())
    };
    assert_eq!(checked(fine.clone(), &wanted()), Ok(()));
    assert_eq!(with("exp", json!(999_970.5)), Ok(()), "within the leeway");
    assert_eq!(with("exp", json!(999_970)), Err(Denied::Expired));
    assert_eq!(with("exp", json!("1000100")), Err(Denied::Malformed), "a text is no time");
    assert_eq!(with("exp", Value::Null), Err(Denied::Malformed));
    assert_eq!(with("exp", json!(-5)), Err(Denied::Expired));
    assert_eq!(with("nbf", json!(1_000_030)), Ok(()));
    assert_eq!(with("nbf", json!(1_000_030.5)), Err(Denied::NotYet));
    assert_eq!(with("nbf", json!("9999999999")), Err(Denied::Malformed), "and not taken for none");
    assert_eq!(with("iss", json!("https://c")), Err(Denied::Issuer));
    assert_eq!(with("iss", json!(["https://a"])), Err(Denied::Issuer));
    assert_eq!(with("aud", json!("shop")), Ok(()));
    assert_eq!(with("aud", json!("Shop")), Err(Denied::Audience));
    assert_eq!(with("aud", json!([])), Err(Denied::Audience));
    assert_eq!(with("aud", json!({ "shop": 1 })), Err(Denied::Audience));
    let without = |name: &str| {
        let mut claims = fine.clone();
        claims.as_object_mut().unwrap().remove(name);
        checked(claims, &wanted())
    };
    assert_eq!(without("exp"), Err(Denied::Expired), "not for ever");
    assert_eq!((without("iss"), without("aud")), (Err(Denied::Issuer), Err(Denied::Audience)));
    let anybody = JwtAuth { issuers: Vec::new(), audiences: Vec::new(), ..wanted() };
    assert_eq!(checked(json!({ "exp": 1_000_001 }), &anybody), Ok(()));
}

#[test]
fn claims_are_told_as_lines_of_text() {
    let told = |claim: Value| -> Result<String, Denied> {
        let text = token(&json!({ "alg": "HS256" }), &json!({ "a": claim, "b": 1 }));
        let claims = Unverified::parse(text.as_bytes()).unwrap().claims().unwrap();
        let all = ["a", "b", "none"].map(|name| (name.to_owned(), format!("X-{name}")));
        let told = claims.told(&all)?.into_iter().map(|(name, value)| format!("{name}: {value}"));
        Ok(told.collect::<Vec<_>>().join("; "))
    };
    let telling = |value: &str| -> Result<String, Denied> { Ok(format!("X-a: {value}; X-b: 1")) };
    assert_eq!(told(json!("x y")), telling("x y"));
    assert_eq!(told(json!("Lovelace, Ada")), telling("Lovelace, Ada"), "a text is told as it is");
    assert_eq!(told(json!(true)), telling("true"));
    assert_eq!(told(json!(["r", "w", 5, false])), telling("r,w,5,false"));
    let groups: Vec<String> = (0..100).map(|number| format!("{number:036}")).collect();
    assert_eq!(told(json!(groups)), telling(&groups.join(",")));
    for nothing in [json!(null), json!(""), json!([])] {
        assert_eq!(told(nothing.clone()), Ok("X-b: 1".to_owned()), "{nothing}");
    }
    for bad in [
        json!({ "f": 1 }),
        json!([["h"]]),
        json!([{ "f": 1 }]),
        json!(["user,admin"]),
        json!(["user", "x,y"]),
        json!(["user", ""]),
        json!(["user", null]),
        json!(["user", " admin"]),
        json!(["user", "a\r\nX-Evil: 1"]),
        json!("a\r\nX-Evil: 1"),
        json!(" a"),
        json!(" "),
        json!("x".repeat(4097)),
        json!(["x".repeat(3000), "y".repeat(3000)]),
    ] {
        assert_eq!(told(bad.clone()), Err(Denied::Untellable), "{bad}");
    }
}

#[test]
fn sets_of_keys_are_read_and_their_mistakes_are_named() {
    let n = BASE64URL_NOPAD.encode(&[0x81; 256]);
    let coordinate = BASE64URL_NOPAD.encode(&[2; 32]);
    let secret = BASE64URL_NOPAD.encode(&[3; 32]);
    let set = json!({ "keys": [
        { "kty": "RSA", "n": n, "e": "AQAB", "kid": "r", "use": "sig", "alg": "RS512" },
        { "kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate },
        { "kty": "OKP", "crv": "Ed25519", "x": coordinate },
        { "kty": "oct", "k": secret },
        { "kty": "RSA", "use": "enc" },
    ] });
    let keys = parse_set(&set.to_string()).unwrap();
    let algorithms: Vec<&str> = keys.iter().map(|(info, _)| info.algorithm.name()).collect();
    assert_eq!(algorithms, ["RS512", "ES256", "EdDSA", "HS256"]);
    assert_eq!(keys[0].0.id.as_deref(), Some("r"));
    assert_eq!(keys[0].1, Material::Rsa { n: vec![0x81; 256], e: vec![1, 0, 1] });
    assert_eq!(format!("{:?}", keys[3].1), "Material(…)");
    let error = |key: Value| parse_set(&json!({ "keys": [key] }).to_string()).unwrap_err().to_string();
    for (key, expected) in [
        (
            json!({ "kty": "oct", "k": secret, "alg": "RS256" }),
            "key 1 cannot be used: a key of its type is not for RS256",
        ),
        (
            json!({ "kty": "RSA", "n": n, "e": "AQAB", "alg": "HS256" }),
            "key 1 cannot be used: a key of its type is not for HS256",
        ),
        (
            json!({ "kty": "RSA", "n": n, "e": "AQAB", "alg": "none" }),
            "key 1 is for the algorithm \"none\"; known are HS256, RS256, RS384, RS512, PS256, ES256, ES384 and EdDSA",
        ),
        (json!({ "kty": "oct", "k": "YWJj" }), "key 1 cannot be used: its secret has less than 32 bytes"),
        (
            json!({ "kty": "RSA", "n": "YWJj", "e": "AQAB" }),
            "key 1 cannot be used: it has less than 2048 bits",
        ),
        (
            json!({ "kty": "RSA", "n": BASE64URL_NOPAD.encode(&[0x7f; 256]), "e": "AQAB" }),
            "key 1 cannot be used: it has less than 2048 bits",
        ),
        (
            json!({ "kty": "RSA", "n": BASE64URL_NOPAD.encode(&[1; 1025]), "e": "AQAB" }),
            "key 1 cannot be used: it has more than 8192 bits",
        ),
        (
            json!({ "kty": "EC", "crv": "P-256", "x": "YWJj", "y": coordinate }),
            "key 1 cannot be used: a coordinate is not as long as its curve's are",
        ),
        (
            json!({ "kty": "EC", "crv": "P-521" }),
            "key 1 cannot be used: the curve \"P-521\" is not known, only P-256 and P-384",
        ),
        (
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "a b" }),
            "key 1 cannot be used: \"x\" is no base64url without padding",
        ),
        (json!({ "kty": "oct" }), "key 1 cannot be used: it has no \"k\""),
        (json!({ "kty": "x" }), "key 1 cannot be used: keys of type \"x\" are not known"),
        (json!({ "kty": "RSA", "use": "enc" }), "there is no key in it that signatures can be checked with"),
    ] {
        assert_eq!(error(key), expected);
    }
    assert!(matches!(parse_set("{}"), Err(KeyError::Form(_))));
    assert!(matches!(parse_set("no"), Err(KeyError::Form(_))));
}

proptest! {
    /// Whatever a client sends for a token is taken apart or refused, and what it claims is let in or not.
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), header in ".{0,60}", claims in ".{0,60}") {
        Unverified::parse(&bytes).ok();
        let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let text = format!("{}.{}.", part(&header), part(&claims));
        Unverified::parse(text.as_bytes()).ok();
        let text = format!("{}.{}.", part("{\"alg\":\"HS256\"}"), part(&claims));
        if let Ok(claims) = Unverified::parse(text.as_bytes()).unwrap().claims() {
            claims.check(&wanted(), UnixTime::from_nanos(0)).ok();
        }
        parse_set(&claims).ok();
    }

    /// A token of any claims: never let in once its time is over, nor without one.
    #[test]
    fn nothing_old_is_let_in(exp in any::<i64>(), nbf in any::<f64>()) {
        let claims = json!({ "exp": exp, "nbf": nbf, "iss": "https://a", "aud": "shop" });
        let outcome = checked(claims, &wanted());
        prop_assert!(outcome != Ok(()) || exp > 999_970);
        prop_assert!(outcome != Ok(()) || nbf <= 1_000_030.0 || !nbf.is_finite());
    }
}
