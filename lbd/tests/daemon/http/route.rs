//! `lbd route`.

use std::fs;

use crate::support::{Folder, command};

const CONFIG: &str = r#"
[[service]]
name = "shop"
mode = "http"
listen = ["127.0.0.1:80", "127.0.0.1:8080"]
forward = "shop"
[[service.rule]]
when = { host = ["api.example"], path_prefix = "/v2" }
forward = [{ group = "api", weight = 9 }, { group = "shop", weight = 1 }]
[[service.rule]]
when = { path_regex = "^/user/([0-9]+)$", header = { "X-Beta" = "*" } }
forward = "api"
rewrite = "/users/{1}"
[[service.rule]]
when = { path_prefix = "/old", source = ["10.0.0.0/8"] }
redirect = { to = "https://{host}/new/{rest}", status = 308 }
[[service]]
name = "other"
mode = "http"
listen = ["127.0.0.1:81"]
trust_forwarded = ["10.0.9.0/24"]
access = { deny = ["10.0.9.66"] }
[[service.rule]]
when = { path = "/x" }
respond = { status = 403 }
[[service.rule]]
when = { path = "/private" }
respond = { status = 200 }
auth = { basic = { users = "users" } }
[[service.rule]]
when = { path = "/staff" }
respond = { status = 200 }
access = { allow = ["10.1.0.0/16"] }
[[target_group]]
name = "shop"
targets = [{ address = "127.0.0.1:9001" }]
[[target_group]]
name = "api"
targets = [{ address = "127.0.0.1:9002" }]
sticky = { by = "cookie" }
"#;

/// What the command prints, and whether it succeeded.
fn route(arguments: &[&str]) -> (bool, String) {
    route_by(CONFIG, arguments)
}

/// The same with another configuration.
fn route_by(config: &str, arguments: &[&str]) -> (bool, String) {
    let folder = Folder::new();
    fs::write(folder.path().join("pair.toml"), config).unwrap();
    let output = command(folder.path(), &[&["route"][..], arguments].concat()).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn it_says_which_rule_is_met_and_why_the_others_are_not() {
    let (ok, text) = route(&["GET", "http://shop.example/user/./42?a=b", "-H", "x-beta: 1"]);
    let expected = "GET /user/42?a=b for shop.example from 127.0.0.1, at service shop\n\
        rule 1 is not met: host = api.example\n\
        rule 2 is met: path_regex = ^/user/([0-9]+)$, header x-beta = *\n\
        forwarded to target group api\n\
        the target gets the path /users/42\n";
    assert_eq!((ok, text.as_str()), (true, expected));
    let (_, text) = route(&["GET", "/x;a", "--service", "other"]);
    let expected = "refused with 400: some servers read the path as one that meets rule 1\n";
    assert!(text.ends_with(expected), "{text}");
    let (_, text) = route(&["GET", "http://shop.example/old/a", "--source", "10.1.2.3"]);
    assert!(text.ends_with("rule 3 is met: path_prefix = /old, source = 10.0.0.0/8\nredirected with 308 to https://shop.example/new/a\n"), "{text}");
    let (_, text) = route(&["GET", "http://shop.example:81/private"]);
    assert!(text.contains("\nonly for whoever has a name and password of /"), "{text}");
    assert!(text.ends_with("/users\nanswered with 200\n"), "{text}");
    let for_another = ["--source", "10.0.9.1", "-H", "X-Forwarded-For: 10.0.9.1, 203.0.113.5"];
    let (_, text) = route(&[&["GET", "http://shop.example:81/x"][..], &for_another].concat());
    let expected = "GET /x for shop.example from 10.0.9.1, at service other\n\
        the client is 203.0.113.5, as the proxy that is trusted says\n";
    assert!(text.starts_with(expected), "{text}");
    let by_denied = ["--source", "10.0.9.66", "-H", "X-Forwarded-For: 203.0.113.5"];
    let (_, text) = route(&[&["GET", "http://shop.example:81/x"][..], &by_denied].concat());
    let expected = "GET /x for shop.example from 10.0.9.66, at service other\n\
        may not connect: `access` of the service keeps 10.0.9.66 out; --source asks for another client\n";
    assert_eq!(text, expected);
    let (_, text) = route(&["GET", "http://shop.example/old/a"]);
    assert!(text.contains("rule 3 is not met: source = 10.0.0.0/8\n"), "{text}");
    assert!(text.ends_with("no rule is met\nforwarded to target group shop\n"), "{text}");
    let (_, text) = route(&["GET", "/v2/x", "-H", "Host: api.example", "--service", "shop"]);
    assert!(text.contains("forwarded to one of api (9), shop (1); which one"), "{text}");
    let expected =
        "\nbut a valid cookie of api (tandem-api) decides before that; cookies are not looked at here\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn it_says_where_a_certificate_of_the_client_belongs() {
    let config = r#"
[[service]]
name = "shop"
mode = "http"
listen = ["127.0.0.1:443"]
forward = "shop"
tls = { certificates = ["shop.pem"], client_ca_file = "clients.pem" }
[[service.rule]]
when = { path = "/own" }
forward = "shop"
rewrite = "/of/{client_cert_sha256}"
[[service.rule]]
when = { path = "/login" }
redirect = { to = "https://{host}/in?who={client_cert_subject}&from={client_ip}" }
[[target_group]]
name = "shop"
targets = [{ address = "127.0.0.1:9001" }]
"#;
    let (ok, text) = route_by(config, &["GET", "https://shop.example/own"]);
    let expected = "the target gets the path /of/SHA256\n\
        where SHA256 stands for {client_cert_sha256} of the client that asks\n";
    assert!(ok && text.ends_with(expected), "{text}");
    let login = ["GET", "https://shop.example/login"];
    let (_, text) = route_by(config, &login);
    let expected = "redirected with 302 to https://shop.example/in?who=SUBJECT&from=127.0.0.1\n\
        where SUBJECT stands for {client_cert_subject} of the client that asks\n";
    assert!(text.ends_with(expected), "{text}");
    // Where it may do without, this client has none, and a path is made of nothing else.
    let optional = config.replace("\"clients.pem\"", "\"clients.pem\", client_certificate = \"optional\"");
    let optional = optional.replace("{client_cert_sha256}", "{client_ip}");
    let (_, text) = route_by(&optional, &login);
    assert!(text.ends_with("redirected with 302 to https://shop.example/in?who=&from=127.0.0.1\n"), "{text}");
}

#[test]
fn it_says_whom_a_list_keeps_out() {
    let (ok, text) = route(&["GET", "http://shop.example:81/staff"]);
    let expected = "rule 3 is met: path = /staff\n\
        answered with 403: `access` of rule 3 keeps 127.0.0.1 out\n";
    assert!(ok && text.ends_with(expected), "{text}");
    let (_, text) = route(&["GET", "http://shop.example:81/staff", "--source", "10.1.2.3"]);
    assert!(text.ends_with("rule 3 is met: path = /staff\nanswered with 200\n"), "{text}");
    // Whom a proxy speaks for has to be let in, too.
    let for_denied = ["--source", "10.0.9.1", "-H", "X-Forwarded-For: 10.0.9.66"];
    let (_, text) = route(&[&["GET", "http://shop.example:81/x"][..], &for_denied].concat());
    assert!(
        text.ends_with(
            "rule 1 is met: path = /x\nanswered with 403: `access` of the service keeps 10.0.9.66 out\n"
        ),
        "{text}"
    );
}

#[test]
fn it_says_what_would_be_refused_and_asks_which_service_is_meant() {
    let (ok, text) = route(&["GET", "http://shop.example/../etc"]);
    assert!(ok && text.starts_with("refused with 400 whichever service it comes to: the path"), "{text}");
    let (_, text) = route(&["GET", "http://a.example:81/x"]);
    assert!(text.ends_with("rule 1 is met: path = /x\nanswered with 403\n"), "{text}");
    let (_, text) = route(&["GET", "/y", "--service", "other"]);
    assert!(text.starts_with("GET /y for (no host) from 127.0.0.1, at service other\n"), "{text}");
    assert!(text.ends_with("no rule is met\nanswered with 404: the service has no `forward`\n"), "{text}");
    let (ok, text) = route(&["GET", "/x"]);
    assert!(!ok && text.contains("say so with --service, one of shop, other"), "{text}");
    let (ok, text) = route(&["GET", "/x", "--service", "shpo"]);
    assert!(!ok && text.contains("no service \"shpo\" of mode = \"http\", only shop, other"), "{text}");
}
