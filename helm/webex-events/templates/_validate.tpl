{{/*
What does not fit together: a sentence each, with what is wrong, why, and how to mend it; all of them at once. What is wrong in
itself (a type, an unknown key, a missing number) values.schema.json says before.
*/}}
{{- define "webex-events.validate" -}}
{{- $problems := list }}
{{- range list "kafka" "secrets" "config" "journal" "ends" "scaling" "budgets" "exposure" "topics" "network" "others" }}
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
{{- range $role := splitList "," (include "webex-events.accounts" .) }}
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
{{- $webex := .Values.config.webex | default dict }}
{{- $otherwise := or $webex.refresh_token_file $webex.service_app $webex.organizations $webex.token_file }}
{{- $external := .Values.externalSecrets }}
{{- if and .Values.receiver.enabled (not (include "webex-events.secretName" (dict "root" $ "secret" "webhook"))) }}
* webhook.existingSecret is empty: without a secret every webhook would be refused, and there is no safe default. Make one (kubectl create secret generic webex-webhooks --from-file=current=FILE) and name it.
{{- end }}
{{- if and .Values.processor.enabled (not (include "webex-events.secretName" (dict "root" $ "secret" "webex"))) }}
* webex.existingSecret is empty: the processor cannot call Webex. Make one (kubectl create secret generic webex-token --from-file=token=FILE) and name it, or set processor.enabled=false.
{{- end }}
{{- if and .Values.processor.enabled (not .Values.webex.tokenKey) (not $otherwise) }}
* webex.tokenKey is empty, and config.webex has no other credential. Name the key with the access token, or set refresh_token_file, service_app or organizations below config.webex.
{{- end }}
{{- if and .Values.webex.tokenKey (or $webex.refresh_token_file $webex.token_file) }}
* There are two credentials: webex.tokenKey, and a file in config.webex. The program takes only one; set webex.tokenKey to "".
{{- end }}
{{- if and .Values.processor.enabled (contains "refresh_token_file" (toJson $webex)) (not .Values.processor.state.persistent) }}
* Webex may replace a refresh token when it is used, and the new one would be lost with the pod. Set processor.state.persistent=true.
{{- end }}
{{- if and $external.enabled (not $external.secretStoreRef.name) }}
* externalSecrets.secretStoreRef has no name: nobody knows which store the secrets are in. Set name, and kind where it is a ClusterSecretStore.
{{- end }}
{{- if and $external.enabled $external.kafka (eq .Values.topics.mode "job") .Values.topics.job.hook (not .Values.kafka.accounts.topics.existingSecret) }}
* The Job for the topics is a hook and runs before its secret is made by externalSecrets.kafka: an install would wait for it in vain. Set topics.job.hook=false, or kafka.accounts.topics.existingSecret to a secret that is there.
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
{{- if regexMatch "\"token\":" (toJson (omit ($config.webex | default dict) "token")) }}
* config.webex has a token in it, and a ConfigMap is no place for a secret. Put it into webex.existingSecret, and name the file (token_file: /etc/webex-events/secrets/webex/KEY).
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
{{- $name := printf "journal-%s-receiver-" (include "webex-events.fullname" .) }}
{{- range .Values.journalDrain.claims }}
{{- $ordinal := trimPrefix $name . }}
{{- if and (hasPrefix $name .) (regexMatch "^[0-9]+$" $ordinal) (lt (int $ordinal) (int (include "webex-events.leastPods" (dict "root" $ "role" "receiver")))) (eq $journal.mode "persistent") $.Values.receiver.enabled }}
* journalDrain.claims has {{ . }}, which receiver {{ $ordinal }} uses: it sends its journal by itself. Drain only claims of receivers that are no more.
{{- end }}
{{- end }}
{{- end }}

{{/* The countdown begins before preStop does; after SIGTERM the program takes 25 s at most. */}}
{{- define "webex-events.validate.ends" -}}
{{- range $role := list "receiver" "processor" }}
{{- $values := index $.Values $role }}
{{- $least := add $values.preStopSleepSeconds 25 5 }}
{{- if lt (int $values.terminationGracePeriodSeconds) (int $least) }}
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
{{- if and .Values.processor.enabled $keda.enabled }}
{{- $webex := .Values.config.webex | default dict }}
{{- $organizations := add (len ($webex.organizations | default dict)) (or .Values.webex.tokenKey $webex.organization_id $webex.refresh_token_file | empty | ternary 0 1) }}
{{- $partitions := dig "kafka" "topics" "partitions" 6 .Values.config | int }}
{{- if lt (int $organizations) 2 }}
* processor.keda.enabled is for several organisations, and there is one: all its work is one key, one processor does it, and more would only wait. Leave it off; two replicas are one that works and one that stands by.
{{- end }}
{{- if gt (int $keda.minReplicas) (int $keda.maxReplicas) }}
* processor.keda.minReplicas is above maxReplicas: KEDA would refuse it. Make maxReplicas at least {{ $keda.minReplicas }}.
{{- end }}
{{- if gt (int $keda.maxReplicas) $partitions }}
* processor.keda.maxReplicas is above the {{ $partitions }} partitions of the topics: the pods beyond would have nothing to do. Lower it, or set config.kafka.topics.partitions to what the topics have.
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.validate.budgets" -}}
{{- range $role := list "receiver" "processor" }}
{{- $pdb := (index $.Values $role).pdb }}
{{- $none := kindIs "invalid" $pdb.minAvailable }}
{{- if and $pdb.enabled (eq $none (kindIs "invalid" $pdb.maxUnavailable)) }}
* {{ $role }}.pdb needs exactly one of minAvailable and maxUnavailable; Kubernetes refuses both. Set the other one to null.
{{- end }}
{{- if and $pdb.enabled (not $none) (eq (toString $pdb.minAvailable) (include "webex-events.leastPods" (dict "root" $ "role" $role))) }}
* {{ $role }}.pdb.minAvailable is as many as there are pods: no node could ever be drained. Use maxUnavailable: 1.
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
{{- range splitList "," (include "webex-events.accounts" .) }}
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
