//! Services of `mode = "http"` as they are taken, and what they are near to.

use std::path::Path;
use std::time::Duration;

use common::config::{
    self, Action, Compressible, Condition, Config, Forwarded, Http, HttpAuth, Mode, PathPattern, SameSite,
    SampleShare, StickyBy, StickyCookie,
};

fn parse(rules: &str) -> Result<Config, config::Diagnostics> {
    let text = format!(
        "[[service]]\nname = \"s\"\nmode = \"http\"\nlisten = [\"127.0.0.1:80\"]\n{rules}\n\
         [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"10.0.1.1:80\" }}]\n"
    );
    config::parse(&text, Path::new("pair.toml"))
}

fn accept(rules: &str) -> Http {
    let config = parse(rules).unwrap_or_else(|errors| panic!("{errors}"));
    config.services[0].http.clone().unwrap()
}

#[test]
fn the_defaults_and_the_bounds() {
    let config = parse("forward = \"g\"").unwrap();
    let service = &config.services[0];
    assert_eq!((service.mode, service.forward.as_str()), (Mode::Http, "g"));
    assert_eq!(
        (service.timeout.idle, service.timeout.header),
        (Duration::from_secs(60), Duration::from_secs(5))
    );
    let http = service.http.as_ref().unwrap();
    assert_eq!(
        (http.response_timeout, http.tunnel_timeout),
        (Duration::from_secs(30), Duration::from_secs(3600))
    );
    assert_eq!(http.header_bytes_max, 32 * 1024);
    assert!(http.rules.is_empty() && http.request_headers.is_empty() && http.trust_forwarded.is_empty());
    assert_eq!(http.forwarded, Forwarded::XForwarded);
    for way in Forwarded::ALL {
        let name = way.name();
        assert_eq!(accept(&format!("forward = \"g\"\nforwarded = \"{name}\"")).forwarded, way);
    }
    let bounds =
        |size: &str| accept(&format!("forward = \"g\"\nlimits = {{ max_header_bytes = \"{size}\" }}"));
    assert_eq!(bounds("1KiB").header_bytes_max, 1024);
    assert_eq!(bounds("65536B").header_bytes_max, 65536);
    assert_eq!((http.http2, http.streams_max), (false, 100));
    let http = accept("forward = \"g\"\nhttp2 = true\nlimits = { max_streams = 1000 }");
    assert_eq!((http.http2, http.streams_max), (true, 1000));
    let tls = "forward = \"g\"\ntls = { certificates = [\"a.pem\"] }\n";
    assert!(accept(tls).http2, "agreed on in the handshake");
    assert!(!accept(&format!("{tls}http2 = false")).http2);
    assert!(parse("forward = \"g\"\nlimits = { max_streams = 0 }").is_err());
    assert!(!config.target_groups[0].http2);
}

#[test]
fn a_service_with_rules_needs_no_forward_and_no_group() {
    let config = parse("[[service.rule]]\nwhen = { path = \"/\" }\nrespond = { status = 204 }").unwrap();
    assert_eq!(config.services[0].forward, "");
    assert_eq!(config.services[0].http.as_ref().unwrap().groups().count(), 0);
    assert!(parse("").is_err(), "but one of both");
}

#[test]
fn every_condition_is_read() {
    let http = accept(
        "[[service.rule]]\nwhen = { host = [\"A.example\", \"*.B.example\", \"192.0.2.1\", \"[2001:DB8::1]\"], \
         path_regex = \"^/a\", method = [\"GET\", \"M-SEARCH\"], header = { \"X-A\" = \"1*\", \"X-B\" = \"*\" }, \
         query = { q = \"x\" }, source = [\"10.0.0.0/8\", \"2001:db8::1\"] }\nforward = \"g\"",
    );
    let when: Vec<String> = http.rules[0].when.iter().map(ToString::to_string).collect();
    let expected = [
        "host = a.example | *.b.example | 192.0.2.1 | [2001:db8::1]",
        "path_regex = ^/a",
        "method = GET | M-SEARCH",
        "header x-a = 1*",
        "header x-b = *",
        "query q = x",
        "source = 10.0.0.0/8 | 2001:db8::1/128",
    ];
    assert_eq!(when, expected);
    assert!(matches!(http.rules[0].path(), Some(PathPattern::Regex(_))));
    assert!(matches!(http.rules[0].when[0], Condition::Host(_)));
}

#[test]
fn what_is_no_loop_and_no_shadow_is_taken() {
    let rule = |when: &str, what: &str| format!("[[service.rule]]\nwhen = {{ {when} }}\n{what}\n");
    for (when, to) in [
        ("path_prefix = \"/\"", "https://{host}{path}"),
        ("path_prefix = \"/old\"", "/new/{rest}"),
        ("path_prefix = \"/old\"", "/older"),
        ("path = \"/a\"", "/a/"),
        ("path_prefix = \"/\"", "http://other.example/"),
        ("path_prefix = \"/\"", "http://{host}:8080/"),
        ("host = [\"www.example\"], path_prefix = \"/\"", "http://example{path}"),
        ("path_prefix = \"/\", query = { a = \"1\" }", "{path}"),
        ("path_prefix = \"/\", method = [\"POST\"]", "{path}"),
        ("path_regex = \"^/(.*)/$\"", "/{1}"),
        ("path = \"/a/\"", "/a/{client_ip}"),
        (
            "path_prefix = \"/a\"",
            "https://{host}/{client_ip}/{method}/{request_id}?{tls_sni}{client_cert_subject}",
        ),
    ] {
        accept(&rule(when, &format!("redirect = {{ to = \"{to}\" }}")));
    }
    let tls = "tls = { certificates = [\"a.pem\"], client_ca_file = \"ca.pem\" }\n";
    let rewritten = "forward = \"g\"\nrewrite = \"/{tls_version}/{client_cert_sha256}/{rest}\"";
    accept(&format!("{tls}{}", rule("path_prefix = \"/a\"", rewritten)));
    for (first, second) in [
        ("path_prefix = \"/a\"", "path_prefix = \"/ab\""),
        ("path_prefix = \"/a\", method = [\"GET\"]", "path_prefix = \"/a\""),
        ("host = [\"*.example\"]", "host = [\"example\"]"),
        ("header = { A = \"1\" }", "header = { A = \"*\" }"),
        ("source = [\"10.0.0.0/8\"]", "source = [\"8.0.0.0/5\"]"),
        ("path_regex = \"a\"", "path = \"/b\""),
    ] {
        accept(&(rule(first, "forward = \"g\"") + &rule(second, "respond = { status = 403 }")));
    }
}

#[test]
fn an_answer_s_status_and_type_have_defaults() {
    let http = accept(
        "[[service.rule]]\nwhen = { path = \"/a\" }\nredirect = { to = \"/b\" }\n\
         [[service.rule]]\nwhen = { path = \"/c\" }\nrespond = { status = 200, body = \"x\" }",
    );
    assert!(matches!(&http.rules[0].action, Action::Redirect(redirect) if redirect.status == 302));
    let Action::Respond(respond) = &http.rules[1].action else { panic!("it responds") };
    assert_eq!(respond.content_type, "text/plain; charset=utf-8");
}

#[test]
fn a_group_says_which_connections_it_keeps() {
    let kept = |keys: &str| {
        let text = format!(
            "[[service]]\nname = \"s\"\nmode = \"http\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n\
             [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"10.0.1.1:80\" }}]\nkeep_alive = {{ {keys} }}\n"
        );
        let config = config::parse(&text, Path::new("pair.toml")).unwrap_or_else(|errors| panic!("{errors}"));
        (config.target_groups[0].keep_alive.idle, config.target_groups[0].keep_alive.max)
    };
    let secs = Duration::from_secs;
    assert_eq!(kept(""), (secs(50), 256));
    assert_eq!(kept("idle = \"1s\", max = 0"), (secs(1), 0));
    assert_eq!(kept("idle = \"1h\", max = 10000"), (secs(3600), 10_000));
}

#[test]
fn requests_have_bounds() {
    let http = accept(
        "forward = \"g\"\nlimits = { max_uri_bytes = \"1KiB\", max_body_bytes = \"1024GiB\", min_body_bytes_per_second = 500 }\n\
         rate = { key = \"header\", name = \"X-Key\", requests = 5, per = \"1s\" }",
    );
    assert_eq!((http.uri_bytes_max, http.body_bytes_max), (Some(1024), Some(1 << 40)));
    assert_eq!((http.body_bytes_per_second_min, http.rate_header.as_deref()), (Some(500), Some("x-key")));
    let http = accept("forward = \"g\"\nrate = { key = \"service\", requests = 5, per = \"1s\" }");
    assert_eq!((http.uri_bytes_max, http.body_bytes_max, http.rate_header), (None, None, None));
}

#[test]
fn who_is_let_in_and_what_is_said_otherwise() {
    let text = "forward = \"g\"\nauth = { basic = { users = \"users\" } }\nerror_pages = { 503 = \"503.html\", 404 = \"/abs\" }\n\
                [[service.rule]]\nwhen = { path = \"/open\" }\nforward = \"g\"\nauth = \"none\"\n\
                [[service.rule]]\nwhen = { path = \"/token\" }\nforward = \"g\"\n\
                auth = { jwt = { keys = \"keys.json\", issuer = [\"i\"], audience = [\"a\", \"b\"], leeway = \"0s\", claims = { sub = \"X-User\" } } }\n\
                [[service.rule]]\nwhen = { path = \"/same\" }\nrespond = { status = 204 }";
    let http = accept(text);
    let Some(HttpAuth::Basic(basic)) = &http.auth else { panic!("{:?}", http.auth) };
    assert_eq!(
        (basic.users.path.to_str(), basic.realm.as_str(), &basic.user_header),
        (Some("users"), "s", &None)
    );
    let pages: Vec<_> =
        http.error_pages.iter().map(|(status, file)| (*status, file.path.to_str().unwrap())).collect();
    assert_eq!(pages, [(503, "503.html"), (404, "/abs")]);
    assert_eq!(http.auth_of(None), http.auth.as_ref());
    assert_eq!(http.auth_of(Some(&http.rules[0])), None);
    let Some(HttpAuth::Jwt(jwt)) = http.auth_of(Some(&http.rules[1])) else { panic!("{:?}", http.rules[1]) };
    assert_eq!(
        (jwt.keys.path.to_str(), jwt.leeway, jwt.audiences.len()),
        (Some("keys.json"), Duration::ZERO, 2)
    );
    assert_eq!(http.auth_of(Some(&http.rules[2])), http.auth.as_ref(), "as the service's");
    assert_eq!(http.auths().flat_map(HttpAuth::told_in).collect::<Vec<_>>(), ["X-User"]);
}

#[test]
fn answers_are_compressed_as_the_rule_or_else_the_service_says() {
    let http = accept(
        "forward = \"g\"\ncompress = { types = [\"Text/HTML\", \"font/*\"], min_bytes = \"2KiB\", algorithms = [\"gzip\"] }\n\
         [[service.rule]]\nwhen = { path = \"/none\" }\nforward = \"g\"\ncompress = \"none\"\n\
         [[service.rule]]\nwhen = { path = \"/own\" }\nforward = \"g\"\ncompress = {}\n\
         [[service.rule]]\nwhen = { path = \"/same\" }\nforward = \"g\"",
    );
    let of_service = http.compress_of(None).unwrap();
    assert_eq!(
        (&of_service.types[..], of_service.bytes_min),
        (&["text/html".to_owned(), "font/*".to_owned()][..], 2048)
    );
    assert_eq!(http.compress_of(Some(0)), None);
    let own = http.compress_of(Some(1)).unwrap();
    assert_eq!((own.types.len(), own.bytes_min), (Compressible::TYPES.len(), 1024));
    assert!(own.has_type(b"application/json") && !own.has_type(b"text/event-stream"));
    assert_eq!(http.compress_of(Some(2)), Some(of_service));
    assert_eq!(accept("forward = \"g\"").compress_of(None), None);
}

#[test]
fn spans_are_sent_to_a_collector() {
    let http = accept("forward = \"g\"\notlp = { endpoint = \"http://collector.internal:4318\" }");
    let otlp = http.otlp.unwrap();
    assert_eq!(otlp.endpoint.to_string(), "http://collector.internal:4318/v1/traces");
    assert_eq!((otlp.sample.millionths(), otlp.service_name.as_str()), (10_000, "s"));
    let http = accept(
        "forward = \"g\"\notlp = { endpoint = \"http://[::1]:4318/otlp?x=1\", sample = 1, service_name = \"edge\" }",
    );
    let otlp = http.otlp.unwrap();
    assert_eq!((otlp.endpoint.authority.as_str(), otlp.endpoint.path.as_str()), ("[::1]:4318", "/otlp?x=1"));
    assert_eq!((otlp.sample, otlp.service_name.as_str()), (SampleShare::ALL, "edge"));
    assert_eq!(accept("forward = \"g\"").otlp, None);
}

#[test]
fn clients_come_back_by_cookies() {
    let group = |keys: &str| {
        let text = format!(
            "[[service]]\nname = \"s\"\nmode = \"http\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"g\"\n\
             [[target_group]]\nname = \"g\"\ntargets = [{{ address = \"10.0.1.1:80\" }}]\n{keys}\n"
        );
        config::parse(&text, Path::new("pair.toml"))
            .unwrap_or_else(|errors| panic!("{errors}"))
            .target_groups
            .remove(0)
    };
    let sticky = |keys: &str| group(&format!("sticky = {{ {keys} }}")).sticky.unwrap();
    let cookie = |name: &str, same_site| StickyBy::Cookie(StickyCookie { name: name.to_owned(), same_site });
    let of = sticky("by = \"cookie\"");
    assert_eq!(
        (of.by, of.ttl, of.max_entries),
        (cookie("tandem-g", SameSite::Lax), Duration::from_secs(3600), 1)
    );
    assert_eq!(
        sticky("by = \"cookie\", name = \"LB\", same_site = \"none\"").by,
        cookie("LB", SameSite::None)
    );
    let of = sticky("by = \"app_cookie\", name = \"SID\", ttl = \"30m\", max_entries = 5");
    assert_eq!((of.by, of.max_entries), (StickyBy::AppCookie("SID".to_owned()), 5));
}
