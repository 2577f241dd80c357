//! Which rule a request meets, and what that makes of it.

use std::net::{IpAddr, SocketAddr};

use common::config::{
    Action, Condition, HeaderChanges, HeaderTemplates, Http, HttpRule, PathPattern, Redirect, Respond, Split,
    Template, Variable,
};
use common::hash::mix;
use common::path::{PathError, lenient_readings, normalise, push_escaped, query_value};

use super::framing::Field;
use super::pass_on::Shown;

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'r> {
    /// The method.
    pub method: &'r str,
    /// The host in its one form, without a port; empty if none was given.
    pub host: &'r str,
    /// The path in its normal form, or `*`.
    pub path: &'r str,
    /// The query without its `?`.
    pub query: Option<&'r str>,
    /// The fields.
    pub fields: &'r [Field<'r>],
    /// The client's address.
    pub client: IpAddr,
}

/// How a request came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The address that the client came to.
    pub local: SocketAddr,
}

/// What else is known of a request, for what is filled in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Background<'r> {
    /// What targets know it by.
    pub request_id: &'r str,
    /// The version of TLS that it came by; empty without.
    pub tls_version: &'r str,
    /// The name that the client asked for in its handshake; empty if none.
    pub server_name: &'r str,
    /// Who the client has shown to be.
    pub certificate: Shown<'r>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed<'h> {
    /// The rule that it meets, with its place in the file, counted from 0; none for what the service does else.
    pub rule: Option<(usize, &'h HttpRule)>,
    /// What is done.
    pub outcome: Outcome<'h>,
}

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome<'h> {
    /// A target of this group answers.
    Forward(&'h str),
    /// The client is sent elsewhere.
    Redirect(&'h Redirect),
    /// This is answered.
    Respond(&'h Respond),
    /// There is nothing for it: 404.
    Nothing,
}

/// Looks at the rules in their order. `hash` is a keyed hash of the client's address: of several groups a client always gets the
/// same, as long as their weights stay. Where there is one it is not asked for.
#[must_use]
pub fn route<'h>(http: &'h Http, asked: &Asked<'_>, hash: impl FnOnce() -> u64) -> Routed<'h> {
    let rule = rule_for(http, asked);
    let forward = |split: &'h Split, place: usize| {
        // Two rules with the same weights do not send the same clients to their second group.
        let group = split.choose(|| mix(hash().wrapping_add(place as u64)));
        group.map_or(Outcome::Nothing, Outcome::Forward)
    };
    let outcome = match rule {
        Some((index, HttpRule { action: Action::Forward(split), .. })) => forward(split, index + 1),
        Some((_, HttpRule { action: Action::Redirect(redirect), .. })) => Outcome::Redirect(redirect),
        Some((_, HttpRule { action: Action::Respond(respond), .. })) => Outcome::Respond(respond),
        None => http.forward.as_ref().map_or(Outcome::Nothing, |split| forward(split, 0)),
    };
    Routed { rule, outcome }
}

/// What servers that read a path in another way make of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// This rule would decide, by its place; none stands for what the service does else.
    Rule(Option<usize>),
    /// There are too many ways to read it.
    Unclear,
}

/// What becomes of a request if servers read its path as lenient ones do, each in a way of its own. Nothing, if that is the same.
///
/// A target that does so would answer from below a path whose rule lets nobody, or somebody else, in.
#[must_use]
pub fn read_otherwise(http: &Http, asked: &Asked<'_>, routed: &Routed<'_>) -> Option<Otherwise> {
    // Without a rule that looks at paths all readings meet the same one.
    if http.rules.iter().all(|rule| rule.path().is_none()) {
        return None;
    }
    let Ok(readings) = lenient_readings(asked.path) else { return Some(Otherwise::Unclear) };
    readings.into_iter().find_map(|path| {
        let other = rule_for(http, &Asked { path: &path, ..*asked });
        let differs = match (routed.rule, other) {
            (None, None) => false,
            (Some((index, _)), Some((other, _))) if index == other => false,
            (Some((_, rule)), Some((_, other))) => !rule.does_as(other),
            (None, Some(_)) | (Some(_), None) => true,
        };
        differs.then(|| Otherwise::Rule(other.map(|(index, _)| index)))
    })
}

/// The first rule that a request meets.
fn rule_for<'h>(http: &'h Http, asked: &Asked<'_>) -> Option<(usize, &'h HttpRule)> {
    http.rules.iter().enumerate().find(|(_, rule)| rule.when.iter().all(|condition| meets(condition, asked)))
}

/// Whether a request meets a condition.
#[must_use]
pub fn meets(condition: &Condition, asked: &Asked<'_>) -> bool {
    match condition {
        Condition::Host(hosts) => hosts.iter().any(|host| host.matches(asked.host)),
        Condition::Path(pattern) => pattern.matches(asked.path),
        Condition::Method(methods) => methods.iter().any(|method| method == asked.method),
        Condition::Header { name, value } => {
            asked.fields.iter().any(|field| field.is(name) && value.matches(field.value))
        }
        Condition::Query { name, value } => {
            let parameters = asked.query.into_iter().flat_map(|query| query.split('&'));
            parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, ""))).any(
                |(its_name, its_value)| {
                    query_value(its_name) == name.as_bytes() && value.matches(&query_value(its_value))
                },
            )
        }
        Condition::Source(networks) => {
            let client = asked.client.to_canonical();
            networks.iter().any(|network| network.contains(&client))
        }
    }
}

/// The first condition of a rule that a request does not meet.
#[must_use]
pub fn obstacle<'h>(rule: &'h HttpRule, asked: &Asked<'_>) -> Option<&'h Condition> {
    rule.when.iter().find(|condition| !meets(condition, asked))
}

/// Where a redirect sends a client.
#[must_use]
pub fn location(
    redirect: &Redirect,
    rule: &HttpRule,
    asked: &Asked<'_>,
    arrival: Arrival,
    background: Background<'_>,
) -> String {
    let location = filled(&redirect.to, rule, asked, arrival, background);
    // A path that begins with two slashes would be read as a host.
    match location.strip_prefix("//") {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => location,
    }
}

/// The path that a target gets.
///
/// # Errors
///
/// That what the variables gave together is no path.
pub fn rewritten(
    rewrite: &Template,
    rule: &HttpRule,
    asked: &Asked<'_>,
    arrival: Arrival,
    background: Background<'_>,
) -> Result<String, PathError> {
    let path = filled(rewrite, rule, asked, arrival, background);
    // Neither the template nor the request's path has any: they would be the client's way out of what was written before them.
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(PathError::DotSegment);
    }
    let mut normal = String::with_capacity(path.len());
    normalise(path.as_bytes(), &mut normal)?;
    Ok(normal)
}

/// An address or a path with its variables filled in: with what was asked for as it is, and with all else escaped.
fn filled(
    template: &Template,
    rule: &HttpRule,
    asked: &Asked<'_>,
    arrival: Arrival,
    background: Background<'_>,
) -> String {
    let filler = Filler::new(template.variables(), Some(rule), asked, arrival, background);
    let mut out = String::with_capacity(64 + asked.path.len());
    let mut plain = String::new();
    template.expand(&mut out, |variable, out| {
        if variable.is_of_an_address() {
            filler.write(variable, out);
        } else {
            plain.clear();
            filler.write(variable, &mut plain);
            push_escaped(&plain, out);
        }
    });
    out
}

/// What a service, or this `rule` of it, changes in the fields of a request or its answer, with its variables filled in.
#[must_use]
pub fn changes(
    templates: &HeaderTemplates,
    rule: Option<&HttpRule>,
    asked: &Asked<'_>,
    arrival: Arrival,
    background: Background<'_>,
) -> HeaderChanges {
    let variables = templates.values().flat_map(Template::variables);
    let filler = Filler::new(variables, rule, asked, arrival, background);
    templates.filled(|variable, out| filler.write(variable, out))
}

/// Writes what stands for variables.
struct Filler<'f> {
    prefix: &'f str,
    captures: Vec<&'f str>,
    asked: &'f Asked<'f>,
    arrival: Arrival,
    background: Background<'f>,
}

impl<'f> Filler<'f> {
    fn new(
        variables: impl Iterator<Item = Variable>,
        rule: Option<&'f HttpRule>,
        asked: &'f Asked<'f>,
        arrival: Arrival,
        background: Background<'f>,
    ) -> Self {
        let (mut prefix, mut captures) = ("", Vec::new());
        match rule.and_then(HttpRule::path) {
            Some(PathPattern::Prefix(its)) => prefix = its,
            // Looked for only if somebody wants to know.
            Some(PathPattern::Regex(regex)) => {
                let mut variables = variables;
                if variables.any(|it| matches!(it, Variable::Capture(_))) {
                    captures = regex.captures(asked.path).unwrap_or_default();
                }
            }
            Some(PathPattern::Exact(_)) | None => {}
        }
        Self { prefix, captures, asked, arrival, background }
    }

    fn write(&self, variable: Variable, out: &mut String) {
        let Self { asked, arrival, background, .. } = self;
        match variable {
            Variable::Scheme => out.push_str(arrival.scheme),
            Variable::Host if asked.host.is_empty() => out.push_str(&host_of(arrival.local)),
            Variable::Host => out.push_str(asked.host),
            Variable::Port => out.push_str(&arrival.local.port().to_string()),
            Variable::Path => out.push_str(asked.path),
            Variable::Rest => {
                let rest = asked.path.strip_prefix(self.prefix).unwrap_or_default();
                out.push_str(rest.trim_start_matches('/'));
            }
            Variable::Query => {
                if let Some(query) = asked.query {
                    out.push('?');
                    out.push_str(query);
                }
            }
            Variable::Capture(number) => {
                out.push_str(self.captures.get(usize::from(number)).unwrap_or(&""));
            }
            Variable::ClientIp => out.push_str(&asked.client.to_canonical().to_string()),
            Variable::Method => out.push_str(asked.method),
            Variable::RequestId => out.push_str(background.request_id),
            Variable::TlsVersion => out.push_str(background.tls_version),
            Variable::TlsSni => out.push_str(background.server_name),
            Variable::ClientCertSubject | Variable::ClientCertSha256 => {
                if let Shown::Certificate { subject, sha256 } = background.certificate {
                    out.push_str(if variable == Variable::ClientCertSubject { subject } else { sha256 });
                }
            }
        }
    }
}

/// An address as the host of an URL.
#[must_use]
pub fn host_of(local: SocketAddr) -> String {
    match local.ip().to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn http(rules: &str) -> Http {
        let text = format!(
            "[[service]]\nname = \"s\"\nmode = \"http\"\nlisten = [\"127.0.0.1:80\"]\nforward = \"rest\"\n{rules}\n\
             [[target_group]]\nname = \"rest\"\ntargets = [{{ address = \"192.0.2.1:80\" }}]\n\
             [[target_group]]\nname = \"api\"\ntargets = [{{ address = \"192.0.2.2:80\" }}]\n"
        );
        let config = common::config::parse(&text, Path::new("test.toml"));
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        config.services[0].http.clone().unwrap()
    }

    fn asked<'r>(method: &'r str, host: &'r str, path: &'r str) -> Asked<'r> {
        Asked { method, host, path, query: None, fields: &[], client: "198.51.100.7".parse().unwrap() }
    }

    const ARRIVAL: Arrival = Arrival {
        scheme: "http",
        local: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), 8080),
    };

    fn place(http: &Http, asked: &Asked<'_>) -> Option<usize> {
        route(http, asked, || 0).rule.map(|(index, _)| index)
    }

    #[test]
    fn the_first_rule_that_is_met_decides() {
        let http = http(
            "[[service.rule]]\nwhen = { host = [\"api.example\", \"*.api.example\"], path_prefix = \"/v2\" }\nforward = \"api\"\n\
             [[service.rule]]\nwhen = { path = \"/health\", method = [\"GET\", \"HEAD\"] }\nrespond = { status = 200, body = \"ok\" }\n\
             [[service.rule]]\nwhen = { path_prefix = \"/old\" }\nredirect = { to = \"https://{host}/new/{rest}{query}\", status = 308 }\n\
             [[service.rule]]\nwhen = { path_regex = \"^/user/([0-9]+)$\" }\nforward = \"api\"\nrewrite = \"/users/{1}/profile\"\n\
             [[service.rule]]\nwhen = { header = { User-Agent = \"*Mobile*\" }, query = { beta = \"*\" } }\nforward = \"api\"\n\
             [[service.rule]]\nwhen = { source = [\"198.51.100.0/24\"], path_prefix = \"/office\" }\nforward = \"api\"\n",
        );
        for (request, expected) in [
            (asked("GET", "api.example", "/v2/x"), Some(0)),
            (asked("GET", "a.api.example", "/v2"), Some(0)),
            (asked("GET", "api.example", "/v20"), None),
            (asked("GET", "shop.example", "/v2/x"), None),
            (asked("HEAD", "any", "/health"), Some(1)),
            (asked("POST", "any", "/health"), None),
            (asked("GET", "any", "/old"), Some(2)),
            (asked("GET", "any", "/user/42"), Some(3)),
            (asked("GET", "any", "/user/42x"), None),
            (asked("GET", "any", "/office/door"), Some(5)),
            (
                Asked { client: "::ffff:198.51.100.9".parse().unwrap(), ..asked("GET", "any", "/office") },
                Some(5),
            ),
            (Asked { client: "203.0.113.1".parse().unwrap(), ..asked("GET", "any", "/office") }, None),
        ] {
            assert_eq!(place(&http, &request), expected, "{request:?}");
        }
        let fields = [Field { name: b"user-agent", value: b"A Mobile Browser" }];
        let mobile = Asked { fields: &fields, query: Some("a=1&beta"), ..asked("GET", "any", "/") };
        assert_eq!(place(&http, &mobile), Some(4));
        assert_eq!(place(&http, &Asked { query: Some("a=1"), ..mobile }), None);
        assert_eq!(place(&http, &Asked { query: Some("b%65ta=x+y"), ..mobile }), Some(4));
        assert_eq!(route(&http, &asked("GET", "any", "/"), || 0).outcome, Outcome::Forward("rest"));
    }

    #[test]
    fn paths_that_lenient_servers_read_as_those_of_another_rule_are_told() {
        let http = http(
            "[[service.rule]]\nwhen = { path_prefix = \"/admin\", method = [\"GET\"] }\nforward = \"rest\"\naccess = { allow = [\"192.0.2.0/24\"] }\n\
             [[service.rule]]\nwhen = { path_prefix = \"/api\" }\nforward = \"api\"\n\
             [[service.rule]]\nwhen = { path_regex = \"^/api;\" }\nforward = \"api\"\n\
             [[service.rule]]\nwhen = { path_prefix = \"/text\" }\nforward = \"api\"\n\
             [[service.rule]]\nwhen = { path_regex = \"^/text;\" }\nforward = \"api\"\ncompress = \"none\"\n",
        );
        for (path, expected) in [
            ("/admin/x", None),
            ("/shop", None),
            ("/shop//a;b", None),
            ("//admin", Some(Some(0))),
            ("/admin%2Fx", Some(Some(0))),
            ("/admin;a/x", Some(Some(0))),
            ("/;%2Fb/admin", Some(Some(0))),
            ("/admin/x;y", None),
            ("/api//x", None),
            ("//api", Some(Some(1))),
            // Another rule, which does the same.
            ("/api;v=1", None),
            // And one that does not: what is in an answer may be why it is not to be compressed.
            ("/text;v=1", Some(Some(3))),
        ] {
            let asked = asked("GET", "any", path);
            let expected = expected.map(Otherwise::Rule);
            assert_eq!(read_otherwise(&http, &asked, &route(&http, &asked, || 0)), expected, "{path}");
        }
        let put = asked("PUT", "any", "//admin");
        assert_eq!(
            read_otherwise(&http, &put, &route(&http, &put, || 0)),
            None,
            "it is not for this rule at all"
        );
    }

    /// Servers that do only a part of that, or in another order, are to be kept out as well.
    #[test]
    fn what_leads_below_a_protected_path_on_half_the_way_is_told() {
        let closed = "access = { allow = [\"192.0.2.0/24\"] }";
        let http = http(&format!(
            "[[service.rule]]\nwhen = {{ path_prefix = \"/admin/login\" }}\nforward = \"rest\"\n\
             [[service.rule]]\nwhen = {{ path_prefix = \"/admin\" }}\nforward = \"rest\"\n{closed}\n\
             [[service.rule]]\nwhen = {{ path_prefix = \"/a/b\" }}\nforward = \"rest\"\n{closed}\n\
             [[service.rule]]\nwhen = {{ path_prefix = \"/\" }}\nforward = \"rest\"\n",
        ));
        for (path, expected) in [
            ("/admin/login/x", None),
            ("/admin/login//x", None),
            ("//admin/login%2Fx", Some(Otherwise::Rule(Some(1)))),
            ("/admin/login%2Fx", Some(Otherwise::Rule(Some(0)))),
            ("/a;x%5Cy%2Fb", Some(Otherwise::Rule(Some(2)))),
            ("/a;x%2Fy%5Cb", Some(Otherwise::Rule(Some(2)))),
            ("/a;x%5Cy%2Fc", None),
            ("/%5C%2F%2F/;aa%2Fb/%5C/;bb%5Ca//aa", Some(Otherwise::Unclear)),
        ] {
            let asked = asked("GET", "any", path);
            assert_eq!(read_otherwise(&http, &asked, &route(&http, &asked, || 0)), expected, "{path}");
        }
    }

    #[test]
    fn where_no_rule_looks_at_paths_no_reading_is_unclear() {
        let path = "/%5C%2F%2F/;aa%2Fb/%5C/;bb%5Ca//aa";
        let rule = |when: &str| http(&format!("[[service.rule]]\nwhen = {{ {when} }}\nforward = \"api\"\n"));
        let asked = asked("GET", "api.example", path);
        for (when, expected) in [
            ("host = [\"api.example\"]", None),
            ("method = [\"PUT\"]", None),
            ("host = [\"api.example\"], path_prefix = \"/a\"", Some(Otherwise::Unclear)),
        ] {
            let http = rule(when);
            assert_eq!(read_otherwise(&http, &asked, &route(&http, &asked, || 0)), expected, "{when}");
        }
    }

    #[test]
    fn variables_are_filled_in() {
        let http = http(
            "[[service.rule]]\nwhen = { path_prefix = \"/old\" }\nredirect = { to = \"https://{host}/new/{rest}{query}\" }\n\
             [[service.rule]]\nwhen = { path_regex = \"^/user/([0-9]+)(.*)$\" }\nforward = \"api\"\nrewrite = \"/users/{1}{2}\"\n\
             [[service.rule]]\nwhen = { path_prefix = \"/here\" }\nredirect = { to = \"{scheme}://{host}:{port}/there\" }\n\
             [[service.rule]]\nwhen = { method = [\"PUT\"] }\nredirect = { to = \"{path}\", status = 303 }\n",
        );
        let to = |asked: &Asked<'_>| match route(&http, asked, || 0) {
            Routed { rule: Some((_, rule)), outcome: Outcome::Redirect(redirect) } => {
                location(redirect, rule, asked, ARRIVAL, Background::default())
            }
            other => panic!("{other:?}"),
        };
        let with_query = Asked { query: Some("a=1"), ..asked("GET", "shop.example", "/old/a/b") };
        assert_eq!(to(&with_query), "https://shop.example/new/a/b?a=1");
        assert_eq!(to(&asked("GET", "shop.example", "/old")), "https://shop.example/new/");
        assert_eq!(
            to(&asked("GET", "shop.example", "/old//evil.example")),
            "https://shop.example/new/evil.example"
        );
        assert_eq!(to(&asked("GET", "", "/here")), "http://192.0.2.10:8080/there");
        assert_eq!(to(&asked("PUT", "a", "//evil.example/x")), "/evil.example/x", "no other host");
        let user = asked("GET", "a", "/user/42/x");
        let (_, rule) = route(&http, &user, || 0).rule.unwrap();
        let rewrite = rule.rewrite.as_ref().unwrap();
        let path = rewritten(rewrite, rule, &user, ARRIVAL, Background::default());
        assert_eq!(path.as_deref(), Ok("/users/42/x"));
    }

    #[test]
    fn what_is_no_part_of_an_address_is_escaped_in_one() {
        let http = http(
            "tls = { certificates = [\"a.pem\"], client_ca_file = \"ca.pem\" }\n\
             [[service.rule]]\nwhen = { path_prefix = \"/go\" }\n\
             redirect = { to = \"https://{host}/{client_ip}/{tls_version}/{client_cert_sha256}?who={client_cert_subject}&sni={tls_sni}&id={request_id}\" }\n\
             [[service.rule]]\nwhen = { path_prefix = \"/to\" }\nforward = \"api\"\nrewrite = \"/by/{method}/{client_ip}/{request_id}/{rest}\"\n",
        );
        let background = Background {
            request_id: "a/b?c#d &%2e\u{e9}",
            tls_version: "1.3",
            server_name: "shop.example",
            certificate: Shown::Certificate { subject: "CN=ada+O=x", sha256: "ab" },
        };
        let asked = |method: &'static str, path: &'static str| Asked {
            client: "2001:db8::5".parse().unwrap(),
            ..asked(method, "shop.example", path)
        };
        let go = asked("GET", "/go");
        let Routed { rule: Some((_, rule)), outcome: Outcome::Redirect(redirect) } = route(&http, &go, || 0)
        else {
            panic!("it is redirected")
        };
        assert_eq!(
            location(redirect, rule, &go, ARRIVAL, background),
            "https://shop.example/2001:db8::5/1.3/ab?who=CN%3Dada%2BO%3Dx&sni=shop.example\
             &id=a%2Fb%3Fc%23d%20%26%252e%C3%A9"
        );
        let rule = &http.rules[1];
        let path = |method: &'static str, request_id: &'static str| {
            let (to, background) = (asked(method, "/to/x"), Background { request_id, ..background });
            rewritten(rule.rewrite.as_ref().unwrap(), rule, &to, ARRIVAL, background)
        };
        assert_eq!(path("GET", "a b").as_deref(), Ok("/by/GET/2001:db8::5/a%20b/x"));
        assert_eq!(path("M#%41", "1").as_deref(), Ok("/by/M%23%2541/2001:db8::5/1/x"));
        // Nothing of it leads elsewhere.
        for (method, request_id) in [("..", "1"), (".", "1"), ("GET", "..")] {
            assert_eq!(path(method, request_id), Err(PathError::DotSegment), "{method} {request_id}");
        }
        assert_eq!(path("GET", "a/../b"), Err(PathError::HiddenDots));
    }

    #[test]
    fn header_fields_are_filled_in_with_what_is_known_of_a_request() {
        let http = http(
            "request_headers = { set = { X-Client = \"{client_ip} {method} {tls_version}\", X-SNI = \"{tls_sni}\" }, add = { X-Id = \"{request_id}\" } }\n\
             [[service.rule]]\nwhen = { path_regex = \"^/user/([0-9]+)$\" }\nforward = \"api\"\n\
             request_headers = { set = { X-User = \"{1}\", X-Cert = \"{client_cert_subject}/{client_cert_sha256}\" } }\n\
             response_headers = { add = { Link = \"<{scheme}://{host}:{port}{path}{query}>\" } }\n\
             [[service.rule]]\nwhen = { path_prefix = \"/a\" }\nforward = \"api\"\nresponse_headers = { set = { X-Rest = \"{rest}\" } }\n",
        );
        let asked = Asked {
            client: "::ffff:198.51.100.9".parse().unwrap(),
            query: Some("a=1"),
            ..asked("GET", "shop.example", "/user/42")
        };
        let background = Background {
            request_id: "mine\r\nX: y",
            tls_version: "1.3",
            server_name: "",
            certificate: Shown::Certificate { subject: "CN=ada", sha256: "ab" },
        };
        let of = |templates: &HeaderTemplates, rule: Option<usize>, asked: &Asked<'_>| {
            changes(templates, rule.map(|rule| &http.rules[rule]), asked, ARRIVAL, background)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let service = of(&http.request_headers, None, &asked);
        assert_eq!(service.set, [pair("X-Client", "198.51.100.9 GET 1.3")]);
        assert_eq!(service.remove, ["x-sni"], "the client's own does not pass for it");
        assert_eq!(service.add, [pair("X-Id", "mineX: y")]);
        let mut rule = of(&http.rules[0].request_headers, Some(0), &asked);
        rule.set.sort();
        assert_eq!(rule.set, [pair("X-Cert", "CN=ada/ab"), pair("X-User", "42")]);
        let answers = of(&http.rules[0].response_headers, Some(0), &asked);
        assert_eq!(answers.add, [pair("Link", "<http://shop.example:8080/user/42?a=1>")]);
        let below = Asked { path: "/a/b/c", ..asked };
        assert_eq!(of(&http.rules[1].response_headers, Some(1), &below).set, [pair("X-Rest", "b/c")]);
    }

    #[test]
    fn a_client_keeps_its_group() {
        let http = http(
            "[[service.rule]]\nwhen = { path_prefix = \"/\" }\nforward = [{ group = \"rest\", weight = 3 }, { group = \"api\", weight = 1 }]\n",
        );
        let request = asked("GET", "a", "/");
        let group = |hash: u64| route(&http, &request, || hash).outcome;
        let api = (0..4000).filter(|hash| group(*hash) == Outcome::Forward("api")).count();
        assert!((900..1100).contains(&api), "{api}");
        assert_eq!(group(17), group(17));
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        let http = http(
            "[[service.rule]]\nwhen = { host = [\"api.example\"], path_prefix = \"/v2\" }\nforward = \"api\"\n",
        );
        let why = |asked: &Asked<'_>| obstacle(&http.rules[0], asked).map(ToString::to_string);
        assert_eq!(why(&asked("GET", "shop.example", "/v2")).as_deref(), Some("host = api.example"));
        assert_eq!(why(&asked("GET", "api.example", "/v1")).as_deref(), Some("path_prefix = /v2"));
        assert_eq!(why(&asked("GET", "api.example", "/v2")), None);
    }
}
