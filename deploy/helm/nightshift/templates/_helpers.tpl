{{- define "nightshift.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "nightshift.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "nightshift.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* What selects pods. Takes {root, component}. */}}
{{- define "nightshift.selector" -}}
app.kubernetes.io/name: nightshift
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "nightshift.labels" -}}
{{ include "nightshift.selector" . }}
app.kubernetes.io/part-of: nightshift
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* Takes {root, image}: an image of its own, or the common one. */}}
{{- define "nightshift.image" -}}
{{ .image.repository | default .root.Values.image.repository }}:{{ .image.tag | default .root.Values.image.tag }}
{{- end }}

{{- define "nightshift.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "nightshift.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A pod of the API or of a worker. Takes {root, component, image, args, env, preStop, readiness, spread, and what values say of it}. */}}
{{- define "nightshift.pod" -}}
metadata:
  labels:
    {{- include "nightshift.selector" . | nindent 4 }}
    {{- with .root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Pods are replaced when these change.
    checksum/settings: {{ include "nightshift.settings" .root | sha256sum }}
    {{- with .root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "nightshift.serviceAccount" .root }}
  automountServiceAccountToken: {{ .root.Values.serviceAccount.automountToken }}
  # The variables that Kubernetes makes of a Service named nightshift begin like settings do.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .root.Values.drainTimeoutSeconds 30 }}
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .of.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- include "nightshift.podSecurity" . | nindent 4 }}
  {{- with .of.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .of.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .of.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range .spread }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "nightshift.selector" $ | nindent 10 }}
    {{- end }}
  containers:
    - name: nightshift
      image: {{ include "nightshift.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ toJson .args }}
      ports:
        - name: http
          containerPort: 8080
      envFrom:
        - configMapRef:
            name: {{ include "nightshift.name" .root }}-settings
        - secretRef:
            name: {{ .root.Values.existingSecret }}
      {{- with concat .root.Values.extraEnv .of.env }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      # The first start waits for the tables.
      startupProbe:
        httpGet:
          path: /livez
          port: http
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 60
      # Asks no database: one that is away is no reason to start again.
      livenessProbe:
        httpGet:
          path: /livez
          port: http
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
        {{- toYaml .readiness | nindent 8 }}
        timeoutSeconds: 5
      {{- with .preStop }}
      lifecycle:
        # SIGTERM ends the listening at once; until then the Service's endpoints have time to forget this pod.
        preStop:
          exec:
            command: {{ toJson . }}
      {{- end }}
      resources:
        {{- toYaml .of.resources | nindent 8 }}
      securityContext:
        {{- include "nightshift.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /var/lib/nightshift
        - name: file
          mountPath: /etc/nightshift
          readOnly: true
  volumes:
    - name: data
      emptyDir:
        sizeLimit: {{ .root.Values.dataSizeLimit }}
    - name: file
      configMap:
        name: {{ include "nightshift.name" .root }}-file
{{- end }}

{{/* The settings that every process shares. */}}
{{- define "nightshift.settings" -}}
settings:
  NIGHTSHIFT_CONFIG: /etc/nightshift/nightshift.toml
  NIGHTSHIFT_DRAIN_TIMEOUT: {{ .Values.drainTimeoutSeconds | quote }}
  {{- range $name, $value := .Values.settings }}
  {{ $name }}: {{ $value | quote }}
  {{- end }}
file: {{ .Values.file | default "# Nothing that no variable can say.\n" | toJson }}
{{- end }}
