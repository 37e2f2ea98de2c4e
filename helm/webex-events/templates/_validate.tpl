{{/*
What does not fit together: a sentence each, with what is wrong, why, and how to mend it; all of them at once. What is wrong in
itself (a type, an unknown key, a missing number) values.schema.json says before.
*/}}
{{- define "webex-events.validate" -}}
{{- $problems := list }}
{{- range list "kafka" "secrets" "credentials" "config" "journal" "ends" "scaling" "budgets" "exposure" "topics" "network" "others" }}
{{- $problems = append $problems (include (printf "webex-events.validate.%s" .) $ | trim) }}
{{- end }}
{{- with compact $problems }}
{{- fail (printf "these values do not fit together:\n%s" (join "\n" . | replace "\n\n" "\n")) }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.kafka" -}}
{{- $kafka := .Values.kafka }}
{{- $sasl := hasPrefix "SASL" $kafka.securityProtocol }}
{{- $tls := hasSuffix "SSL" $kafka.securityProtocol }}
{{- if not $kafka.bootstrapServers }}
* kafka.bootstrapServers is empty: receivers and processors share Kafka and nothing else. Name the brokers, for example [kafka-bootstrap:9092].
{{- end }}
{{- if and $kafka.ca.existingSecret (not $tls) }}
* kafka.ca.existingSecret would not be used with kafka.securityProtocol {{ $kafka.securityProtocol }}, although somebody believes that it protects them. Choose SSL or SASL_SSL, or leave it out.
{{- end }}
{{- range $role := splitList "," (include "webex-events.accounts" .) | compact }}
{{- $account := include "webex-events.account" (dict "root" $ "role" $role) | fromYaml }}
{{- if and $sasl (not (and $account.username $account.existingSecret)) }}
* {{ $role }} has no account towards Kafka: with {{ $kafka.securityProtocol }} a user name and a secret with its password are needed. Set username and existingSecret of kafka.account, or of kafka.accounts.{{ $role }}.
{{- end }}
{{- if and $account.certificateKey (not $tls) }}
* The certificate of {{ $role }} would not be used with kafka.securityProtocol {{ $kafka.securityProtocol }}. Choose SSL or SASL_SSL, or leave out certificateKey.
{{- end }}
{{- if and $account.certificateKey (not (and $account.privateKeyKey $account.existingSecret)) }}
* The certificate of {{ $role }} has no private key: Kafka would not believe it. Set existingSecret and privateKeyKey beside certificateKey.
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.secrets" -}}
{{- $external := .Values.externalSecrets }}
{{- if and .Values.receiver.enabled (not (include "webex-events.secretName" (dict "root" $ "secret" "webhook"))) }}
* webhook.existingSecret is empty: without a secret every webhook would be refused, and there is no safe default. Make one (kubectl create secret generic webex-webhooks --from-file=current=FILE) and name it.
{{- end }}
{{- if and .Values.processor.enabled (not (include "webex-events.secretName" (dict "root" $ "secret" "webex"))) }}
* webex.existingSecret is empty: the processor cannot call Webex. Make one (kubectl create secret generic webex-token --from-file=token=FILE) and name it, or set processor.enabled=false.
{{- end }}
{{- if and $external.enabled (not $external.secretStoreRef.name) }}
* externalSecrets.secretStoreRef has no name: nobody knows which store the secrets are in. Set name, and kind where it is a ClusterSecretStore.
{{- end }}
{{- if and $external.enabled $external.kafka (eq .Values.topics.mode "job") .Values.topics.job.hook (not .Values.kafka.accounts.topics.existingSecret) }}
* The Job for the topics is a hook and runs before its secret is made by externalSecrets.kafka: an install would wait for it in vain. Set topics.job.hook=false, or kafka.accounts.topics.existingSecret to a secret that is there.
{{- end }}
{{- end }}

{{/* Each place of config.webex where a credential may stand, as YAML: place → what is there. */}}
{{- define "webex-events.credentials" -}}
{{- $webex := .Values.config.webex | default dict -}}
{{- $places := dict "config.webex" $webex "config.webex.service_app.caller" (($webex.service_app | default dict).caller | default dict) -}}
{{- range $name, $organization := $webex.organizations | default dict -}}
{{- $_ := set $places (printf "config.webex.organizations.%s" $name) $organization -}}
{{- end -}}
{{- toYaml $places -}}
{{- end }}

{{/* "" where no credential has to be refreshed. */}}
{{- define "webex-events.refreshes" -}}
{{- range include "webex-events.credentials" . | fromYaml }}{{ if .refresh_token_file }}yes{{ end }}{{ end -}}
{{- end }}

{{/* The names of a list that a map has not, joined. Takes map and names. */}}
{{- define "webex-events.missing" -}}
{{- $missing := list -}}
{{- range .names }}{{ if not (index $.map .) }}{{ $missing = append $missing . }}{{ end }}{{ end -}}
{{- join " and " $missing -}}
{{- end }}

{{/* What the program would refuse at its start: _credentials, _service_app, _organizations and require_token of its settings. */}}
{{- define "webex-events.validate.credentials" -}}
{{- $webex := .Values.config.webex | default dict }}
{{- $app := $webex.service_app | default dict }}
{{- $caller := $app.caller | default dict }}
{{- $given := or .Values.webex.tokenKey $webex.token_file $webex.refresh_token_file }}
{{- $organizations := $webex.organizations | default dict }}
{{- if and .Values.webex.tokenKey (or $webex.refresh_token_file $webex.token_file) }}
* There are two credentials: webex.tokenKey, and a file in config.webex. The program takes only one; set webex.tokenKey to "".
{{- end }}
{{- range $place, $credential := include "webex-events.credentials" . | fromYaml }}
{{- $refresh := list "client_id" "client_secret_file" "refresh_token_file" }}
{{- $missing := include "webex-events.missing" (dict "map" $credential "names" $refresh) }}
{{- if and $missing (ne $missing (join " and " $refresh)) }}
* {{ $place }} has no {{ $missing }}: a token is refreshed with all three of client_id, client_secret_file and refresh_token_file. Set what is missing, or none of them.
{{- end }}
{{- if and $credential.token_file $credential.refresh_token_file }}
* {{ $place }} has token_file and refresh_token_file, and the program takes only one of them. Leave one out.
{{- end }}
{{- end }}
{{- $ofApp := list "application_id" "client_id" "client_secret_file" }}
{{- $missing := include "webex-events.missing" (dict "map" $app "names" $ofApp) }}
{{- $called := or $caller.token_file $caller.refresh_token_file }}
{{- if and $missing (or $called (ne $missing (join " and " $ofApp))) }}
* config.webex.service_app has no {{ $missing }}: without it Webex gives no token of a Service App. Set it too.
{{- end }}
{{- if and (not $missing) (not $called) }}
* config.webex.service_app.caller has no credential: an integration asks for the tokens of a Service App, with a token of its own. Set token_file below caller, or what is needed to refresh one.
{{- end }}
{{- if and $organizations $given (not $webex.organization_id) }}
* config.webex.organization_id is missing: beside config.webex.organizations nobody knows whose the other credential is. Set it, or webex.tokenKey to "" where there is no other one.
{{- end }}
{{- range $name, $organization := $organizations }}
{{- if not $organization.id }}
* config.webex.organizations.{{ $name }} has no id: events would not be told apart. Set the id of the organisation.
{{- end }}
{{- if and $.Values.processor.enabled (not (or $organization.token_file $organization.refresh_token_file $app.application_id)) }}
* config.webex.organizations.{{ $name }} has no credential: the processor cannot call Webex for it. Set token_file (/etc/webex-events/secrets/webex/KEY), or service_app where it has given its consent.
{{- end }}
{{- end }}
{{- if and .Values.processor.enabled (not $given) (or (not $organizations) $webex.organization_id) }}
{{- if not $app.application_id }}
* webex.tokenKey is empty, and config.webex has no other credential. Name the key with the access token, or set refresh_token_file, service_app or organizations below config.webex.
{{- else if not $webex.organization_id }}
* config.webex.organization_id is missing: a Service App has a token for each organisation. Set it, or config.webex.organizations.
{{- end }}
{{- end }}
{{- if and .Values.processor.enabled (include "webex-events.refreshes" .) }}
{{- $least := include "webex-events.leastPods" (dict "root" $ "role" "processor") | int }}
{{- if not .Values.processor.state.persistent }}
* Webex may replace a refresh token when it is used, and the new one would be lost with the pod. Set processor.state.persistent=true.
{{- end }}
{{- if and (or .Values.processor.keda.enabled (gt $least 1)) (not .Values.processor.state.acceptStaleRefreshTokens) }}
* There are several processors, and each keeps the refresh token that Webex gave it last: one that takes over has only that of the secret, which Webex may have replaced, and nothing would work. Set processor.replicas=1 without KEDA, use token_file with tokens that somebody else refreshes, or say processor.state.acceptStaleRefreshTokens=true.
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.config" -}}
{{- $config := .Values.config }}
{{- range $path, $where := dict
  "bus" "nothing: in a cluster it is always kafka"
  "kafka.bootstrap_servers" "kafka.bootstrapServers" "kafka.topic_prefix" "kafka.topicPrefix" "kafka.group" "kafka.group"
  "kafka.instance_id" "nothing: it is the pod's name" "kafka.security_protocol" "kafka.securityProtocol" "kafka.sasl" "kafka.account"
  "kafka.ca_file" "kafka.ca" "kafka.cert_file" "kafka.account" "kafka.key_file" "kafka.account"
  "journal.enabled" "receiver.journal.mode" "journal.path" "nothing: a volume is mounted there" "journal.max_mib" "receiver.journal.maxMib"
  "receiver.port" "receiver.service.port: inside the pod it stays 8080" "admin.port" "nothing: probes and monitors use 9090"
  "webhook.secrets_dir" "webhook.existingSecret" "webhook.secret" "webhook.existingSecret: a ConfigMap is no place for a secret"
  "webex.token" "webex.existingSecret: a ConfigMap is no place for a secret" "policy.file" "policy.files" }}
{{- $group := first (splitList "." $path) }}
{{- $given := contains "." $path | ternary (index $config $group | default dict) $config }}
{{- if hasKey $given (last (splitList "." $path)) }}
* config.{{ $path }} is set by the chart. Use {{ $where }}.
{{- end }}
{{- end }}
{{- range $place, $credential := omit (include "webex-events.credentials" . | fromYaml) "config.webex" }}
{{- if hasKey $credential "token" }}
* {{ $place }} has a token in it, and a ConfigMap is no place for a secret. Put it into webex.existingSecret, and name the file (token_file: /etc/webex-events/secrets/webex/KEY).
{{- end }}
{{- end }}
{{- with ($config.admin | default dict).host }}
{{- if regexMatch "^(127\\.|localhost|::1)" . }}
* config.admin.host is {{ . }}: the kubelet's probes come from outside the pod and would fail for ever. Use 0.0.0.0, or :: with IPv6.
{{- end }}
{{- end }}
{{- if and .Values.policy.files .Values.policy.existingConfigMap }}
* policy.files and policy.existingConfigMap are both set, and only one can be mounted. Choose.
{{- end }}
{{- if and .Values.policy.files (not (hasKey .Values.policy.files "policy.yaml")) }}
* policy.files has no policy.yaml: the processor would not find its policy. Give the main file that name.
{{- end }}
{{- end }}

{{- define "webex-events.validate.journal" -}}
{{- $journal := .Values.receiver.journal }}
{{- if and (eq $journal.mode "emptyDir") (not $journal.acceptLoss) }}
* With receiver.journal.mode=emptyDir events that Webex was told are safe go with their pod. Use persistent, or none (Webex then gets 503 and repeats), or say receiver.journal.acceptLoss=true.
{{- end }}
{{- if and (eq $journal.mode "emptyDir") (not $journal.maxMib) }}
* receiver.journal.maxMib is needed with emptyDir: no file system shows the limit of an emptyDir, and beyond it the pod is evicted with its journal. 1024 is 90 minutes at 50 events a second.
{{- end }}
{{- if ne (len .Values.journalDrain.claims) (len (uniq .Values.journalDrain.claims)) }}
* journalDrain.claims names a claim twice, and only one Job can have it. Name each once.
{{- end }}
{{- if and .Values.receiver.enabled (eq $journal.mode "persistent") }}
{{- $name := printf "journal-%s-receiver-" (include "webex-events.fullname" .) }}
{{- $least := include "webex-events.leastPods" (dict "root" $ "role" "receiver") | int }}
{{- $scaling := .Values.receiver.autoscaling }}
{{- range .Values.journalDrain.claims }}
{{- $ordinal := trimPrefix $name . }}
{{- if and (hasPrefix $name .) (regexMatch "^[0-9]+$" $ordinal) }}
{{- if lt (int $ordinal) $least }}
* journalDrain.claims has {{ . }}, which receiver {{ $ordinal }} uses: it sends its journal by itself. Drain only claims of receivers that are no more.
{{- else if and $scaling.enabled (lt (int $ordinal) (int $scaling.maxReplicas)) }}
* journalDrain.claims has {{ . }}, and the autoscaler may start receiver {{ $ordinal }} on it at any time. Lower receiver.autoscaling.maxReplicas to {{ $ordinal }} until it is drained.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The countdown begins before preStop does; after SIGTERM the program takes 25 s at most. */}}
{{- define "webex-events.validate.ends" -}}
{{- range $role := list "receiver" "processor" }}
{{- $values := index $.Values $role }}
{{- $least := add $values.preStopSleepSeconds 25 5 }}
{{- if and $values.enabled (lt (int $values.terminationGracePeriodSeconds) (int $least)) }}
* {{ $role }}.terminationGracePeriodSeconds is {{ $values.terminationGracePeriodSeconds }}: the pod would be killed before it has written down what is under way. It takes at least {{ $least }} (preStopSleepSeconds {{ $values.preStopSleepSeconds }} + 25 for the program + 5).
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.scaling" -}}
{{- $scaling := .Values.receiver.autoscaling }}
{{- $keda := .Values.processor.keda }}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
* receiver.autoscaling.minReplicas is above maxReplicas: Kubernetes would refuse it. Make maxReplicas at least {{ $scaling.minReplicas }}.
{{- end }}
{{- if and $scaling.enabled (not $scaling.metrics) (not (dig "requests" "cpu" "" (.Values.receiver.resources | default dict))) }}
* receiver.autoscaling goes by a percentage of the requested CPU, and receiver.resources requests none: it would never scale. Set requests.cpu, or metrics of your own.
{{- end }}
{{- if and $scaling.enabled (eq .Values.receiver.journal.mode "persistent") $scaling.behavior.scaleDown (not $scaling.allowScaleDown) }}
* receiver.autoscaling.behavior.scaleDown would take pods away whose volumes may hold accepted events, with nobody to send them. Leave it out, or say allowScaleDown=true and drain orphaned claims by journalDrain.
{{- end }}
{{- $receiver := printf "%s-receiver" (include "webex-events.fullname" .) }}
{{- if and .Values.receiver.enabled $scaling.enabled (eq .Values.receiver.journal.mode "persistent") (not $scaling.allowScaleDown) }}
{{- $live := include "webex-events.liveReplicas" (dict "root" . "kind" "StatefulSet" "name" $receiver) | int }}
{{- if and (lt (int $scaling.minReplicas) $live) (not (lookup "autoscaling/v2" "HorizontalPodAutoscaler" (include "webex-events.namespace" .) $receiver)) }}
* receiver.autoscaling is switched on with minReplicas {{ $scaling.minReplicas }}, and {{ $live }} receivers run: one that goes may leave accepted events on its volume, with nobody to send them. Make minReplicas at least {{ $live }}, or say allowScaleDown=true and drain orphaned claims by journalDrain.
{{- end }}
{{- end }}
{{- if and .Values.processor.enabled $keda.enabled }}
{{- $webex := .Values.config.webex | default dict }}
{{- $organizations := add (len ($webex.organizations | default dict)) (or .Values.webex.tokenKey $webex.organization_id $webex.refresh_token_file | empty | ternary 0 1) }}
{{- $partitions := include "webex-events.partitions" . | int }}
{{- if lt (int $organizations) 2 }}
* processor.keda.enabled is for several organisations, and there is one: all its work is one key, one processor does it, and more would only wait. Leave it off; two replicas are one that works and one that stands by.
{{- end }}
{{- if gt (int $keda.minReplicas) (int $keda.maxReplicas) }}
* processor.keda.minReplicas is above maxReplicas: KEDA would refuse it. Make maxReplicas at least {{ $keda.minReplicas }}.
{{- end }}
{{- if gt (int $keda.maxReplicas) $partitions }}
* processor.keda.maxReplicas is above the {{ $partitions }} partitions of the topics: the pods beyond would have nothing to do. Lower it. (config.kafka.topics.partitions says how many new topics get; it adds none to those that are there.)
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.budgets" -}}
{{- range $role := list "receiver" "processor" }}
{{- $values := index $.Values $role }}
{{- $pdb := $values.pdb }}
{{- $none := kindIs "invalid" $pdb.minAvailable }}
{{- if and $pdb.enabled (eq $none (kindIs "invalid" $pdb.maxUnavailable)) }}
* {{ $role }}.pdb needs exactly one of minAvailable and maxUnavailable; Kubernetes refuses both. Set the other one to null.
{{- end }}
{{- $pods := include "webex-events.leastPods" (dict "root" $ "role" $role) | int }}
{{- if and $values.enabled $pdb.enabled (not $none) (gt $pods 1) }}
{{- $kept := $pdb.minAvailable }}
{{- if kindIs "string" $kept }}
{{- /* Kubernetes rounds up. */}}
{{- $kept = div (add (mul (trimSuffix "%" $kept | int) $pods) 99) 100 }}
{{- end }}
{{- if ge (int $kept) $pods }}
* {{ $role }}.pdb.minAvailable is {{ $pdb.minAvailable }}, which keeps all {{ $pods }} pods: no node could ever be drained. Use maxUnavailable: 1.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.exposure" -}}
{{- $receiver := .Values.receiver }}
{{- if and $receiver.httpRoute.enabled (not $receiver.httpRoute.parentRefs) }}
* receiver.httpRoute.parentRefs is empty: the route would belong to no gateway. Name yours, for example [{name: public, namespace: gateways}].
{{- end }}
{{- if and $receiver.ingress.enabled (not $receiver.ingress.hosts) }}
* receiver.ingress.hosts is empty: the path would be taken on every name of the controller. Name the host that Webex calls.
{{- end }}
{{- if and $receiver.enabled $receiver.certificate.enabled }}
{{- if not $receiver.certificate.issuerRef.name }}
* receiver.certificate.issuerRef has no name: nobody would sign it. Name your issuer, and its kind.
{{- end }}
{{- if eq (include "webex-events.publicNames" .) "[]" }}
* receiver.certificate would be for no name. Set receiver.httpRoute.hostnames or receiver.ingress.hosts, or leave it to whoever made the gateway.
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.topics" -}}
{{- $strimzi := .Values.topics.strimzi }}
{{- if eq .Values.topics.mode "strimzi" }}
{{- if not $strimzi.cluster }}
* topics.strimzi.cluster is empty: no operator would look at the topics. Name the Kafka resource.
{{- end }}
{{- if gt (int $strimzi.minInsyncReplicas) (int $strimzi.replicas) }}
* topics.strimzi.minInsyncReplicas is above replicas: nothing could ever be written. Lower it.
{{- end }}
{{- $partitions := include "webex-events.partitions" . | int }}
{{- $place := (include "webex-events.strimziPlace" . | fromYaml).namespace }}
{{- range $topic := splitList "," (include "webex-events.topics" .) }}
{{- $live := (lookup $strimzi.apiVersion "KafkaTopic" $place (include "webex-events.kafkaTopic" (dict "root" $ "topic" $topic)) | default dict).spec | default dict }}
{{- if and $live.partitions (ne (int $live.partitions) $partitions) }}
* The topic {{ $.Values.kafka.topicPrefix }}{{ $topic }} has {{ int $live.partitions }} partitions, and config.kafka.topics.partitions is {{ $partitions }}: with another count keys move to other partitions, and the ledger does not go with them, so what hosts have decided would be forgotten. Set it to {{ int $live.partitions }}; UPGRADING.md says how to get more.
{{- end }}
{{- end }}
{{- end }}
{{- if and $strimzi.users.enabled (ne .Values.topics.mode "strimzi") }}
* topics.strimzi.users.enabled has no effect with topics.mode {{ .Values.topics.mode }}. Set topics.mode=strimzi, or leave it out.
{{- end }}
{{- if include "webex-events.strimziUsers" . }}
{{- if eq .Values.kafka.securityProtocol "PLAINTEXT" }}
* topics.strimzi.users.enabled makes users, and with kafka.securityProtocol PLAINTEXT nobody says who they are. Choose SSL (certificates) or SASL_SSL (passwords), as the listener has it.
{{- end }}
{{- if and (hasPrefix "SASL" .Values.kafka.securityProtocol) (ne .Values.kafka.saslMechanism "SCRAM-SHA-512") }}
* Strimzi's users have passwords for SCRAM-SHA-512 only. Set kafka.saslMechanism.
{{- end }}
{{- if ne ($strimzi.namespace | default (include "webex-events.namespace" .)) (include "webex-events.namespace" .) }}
{{- range splitList "," (include "webex-events.accounts" .) | compact }}
{{- if not (index $.Values.kafka.accounts .).existingSecret }}
* Strimzi makes the secret of {{ . }} in the namespace {{ $strimzi.namespace }}, and pods cannot mount it from there. Copy it, and set kafka.accounts.{{ . }}.existingSecret to the copy.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.network" -}}
{{- $policy := .Values.networkPolicy }}
{{- $monitors := or .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled }}
{{- if $policy.enabled }}
{{- if and .Values.receiver.enabled (not $policy.webhooksFrom) }}
* networkPolicy.webhooksFrom is empty: no webhook would come through. Name the pods of your gateway or ingress controller.
{{- end }}
{{- if not $policy.kafka.peers }}
* networkPolicy.kafka.peers is empty: nobody would reach Kafka, and "to everywhere" is no policy. Name the brokers: a podSelector, or an ipBlock.
{{- end }}
{{- if and $monitors (not $policy.metricsFrom) }}
* networkPolicy.metricsFrom is empty while a monitor is on: Prometheus would not reach the pods, and the alerts would be silent. Name its namespace.
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.others" -}}
{{- $named := list }}
{{- range $role := splitList "," (include "webex-events.accounts" .) | compact }}
{{- $named = append $named (index $.Values.serviceAccounts $role).name }}
{{- end }}
{{- if and .Values.serviceAccounts.create (ne (len (compact $named)) (len (compact $named | uniq))) }}
* serviceAccounts gives one name to two kinds of pods, and it would be made twice. Make that account yourself, and set serviceAccounts.create=false.
{{- end }}
{{- if .Values.console.enabled }}
* console.enabled: this version of the program has no console yet. Leave it off.
{{- end }}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled }}
* monitoring.podMonitor and monitoring.serviceMonitor are both on: every pod would be read twice, and every rate doubled. Choose one.
{{- end }}
{{- if and (eq .Values.image.tag "latest") (not .Values.image.digest) }}
* image.tag is latest: which version runs would depend on when a node pulled it. Name a version, or a digest.
{{- end }}
{{- range $where, $labels := dict "commonLabels" .Values.commonLabels "pod.labels" .Values.pod.labels "receiver.pod.labels" (.Values.receiver.pod.labels | default dict) "processor.pod.labels" (.Values.processor.pod.labels | default dict) }}
{{- range $label, $_ := $labels }}
{{- if or (hasPrefix "app.kubernetes.io/" $label) (eq $label "helm.sh/chart") }}
* {{ $where }} has {{ $label }}, which the chart sets: Services and workloads find their pods by it. Use a label of your own.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
